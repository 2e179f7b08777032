#include "core/linux/tcp_repair.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <span>
#include <vector>

#include "core/base/error.h"

namespace snapgdb {
namespace {

// include/net/tcp.h: TCPOPT_*
enum : uint32_t { kOptionSegment = 2, kOptionScale = 3, kOptionSack = 4, kOptionTimestamp = 8 };

int value_of(const Fd& socket, int level, int name) {
  int value = 0;
  socklen_t size = sizeof value;
  if (::getsockopt(socket.get(), level, name, &value, &size) != 0)
    throw_errno("cannot read an option of a socket");
  return value;
}

void set(const Fd& socket, int level, int name, int value, const char* what) {
  if (::setsockopt(socket.get(), level, name, &value, sizeof value) != 0)
    throw_errno("cannot set {} of a connection", what);
}

bool try_set(const Fd& socket, int level, int name, int value) {
  return ::setsockopt(socket.get(), level, name, &value, sizeof value) == 0;
}

size_t queue_size(const Fd& socket, unsigned long which) {
  int bytes = 0;
  return ::ioctl(socket.get(), which, &bytes) == 0 && bytes > 0 ? static_cast<size_t>(bytes) : 0;
}

void choose_queue(const Fd& socket, int queue) {
  set(socket, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue, "the queue");
}

uint32_t sequence(const Fd& socket, int queue) {
  choose_queue(socket, queue);
  return static_cast<uint32_t>(value_of(socket, IPPROTO_TCP, TCP_QUEUE_SEQ));
}

// Ends repair mode; what comes with it is set to what it was.
std::array<OptionGuard::Change, 3> end_of_repair(const Fd& socket) {
  return {{{socket.get(), IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP},
           {socket.get(), SOL_SOCKET, SO_REUSEADDR, value_of(socket, SOL_SOCKET, SO_REUSEADDR)},
           peek_offset_of(socket)}};
}

// Of these, without repair mode only where a look begins.
std::span<const OptionGuard::Change> changed_of(std::span<const OptionGuard::Change> all,
                                                bool repairs) {
  return repairs ? all : all.last(1);
}

std::string peek(const Fd& socket, size_t room) {
  std::string bytes(room, '\0');
  const ssize_t n = ::recv(socket.get(), bytes.data(), bytes.size(), MSG_PEEK | MSG_DONTWAIT);
  bytes.resize(n < 0 ? 0 : static_cast<size_t>(n));
  return bytes;
}

// A look ends before urgent data; behind it, it begins anew at an offset (Linux 6.9).
std::string peek_all(const Fd& socket, bool& has_urgent_data) {
  const size_t wanted = queue_size(socket, SIOCINQ);
  std::string bytes;
  try_set(socket, SOL_SOCKET, SO_PEEK_OFF, -1);
  if (wanted) bytes = peek(socket, wanted);
  has_urgent_data = bytes.size() < wanted;
  while (bytes.size() < wanted) {
    if (!try_set(socket, SOL_SOCKET, SO_PEEK_OFF, static_cast<int>(bytes.size()))) break;
    const std::string more = peek(socket, wanted - bytes.size());
    if (more.empty()) break;
    bytes += more;
  }
  return bytes;
}

void read_agreed(const Fd& socket, TcpConnection& connection) {
  const tcp_info info = tcp_info_of(socket);
  connection.phase = static_cast<TcpPhase>(info.tcpi_state);
  connection.bytes_sent = info.tcpi_bytes_sent - info.tcpi_bytes_retrans;
  connection.selective_acks = info.tcpi_options & TCPI_OPT_SACK;
  if (info.tcpi_options & TCPI_OPT_WSCALE)
    connection.window_scale = {info.tcpi_snd_wscale, info.tcpi_rcv_wscale};
  if (info.tcpi_options & TCPI_OPT_TIMESTAMPS)
    connection.timestamp = static_cast<uint32_t>(value_of(socket, IPPROTO_TCP, TCP_TIMESTAMP));
  connection.maximum_segment = static_cast<uint32_t>(value_of(socket, IPPROTO_TCP, TCP_MAXSEG));
}

bool may_repair(const Fd& socket, std::string& why_not) {
  if (try_set(socket, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON)) return true;
  why_not = "only CAP_NET_ADMIN tells sequence numbers and what waits to be sent (TCP_REPAIR): " +
            errno_text(errno);
  return false;
}

// The kernel may want the pieces small, as it needs each in one piece itself.
void send_all(const Fd& socket, std::string_view bytes, const char* what) {
  size_t piece = 16 * 1024;
  while (!bytes.empty()) {
    const ssize_t n = ::send(socket.get(), bytes.data(), std::min(piece, bytes.size()),
                             MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
    } else if (piece > 1024) {
      piece /= 2;
    } else {
      throw_errno("cannot queue {} bytes {}", bytes.size(), what);
    }
  }
}

void make_room(const Fd& socket, const TcpConnection& connection) {
  constexpr size_t kOverhead = 4,
                   kLeast = size_t{1} << 20;  // packets are larger than what is in them
  const auto room = [=](const std::string& queue) {
    return static_cast<int>(std::max(queue.size() * kOverhead, kLeast));
  };
  for (const auto& [name, forced, bytes] :
       {std::tuple(SO_RCVBUF, SO_RCVBUFFORCE, room(connection.receive_queue)),
        std::tuple(SO_SNDBUF, SO_SNDBUFFORCE, room(connection.send_queue))})
    if (!try_set(socket, SOL_SOCKET, forced, bytes)) try_set(socket, SOL_SOCKET, name, bytes);
}

void agree(const Fd& socket, const TcpConnection& connection) {
  std::vector<tcp_repair_opt> options{{kOptionSegment, connection.maximum_segment}};
  if (connection.selective_acks) options.push_back({kOptionSack, 0});
  if (connection.window_scale)
    options.push_back(
        {kOptionScale, connection.window_scale->send | connection.window_scale->receive << 16});
  if (connection.timestamp) options.push_back({kOptionTimestamp, 0});
  if (::setsockopt(socket.get(), IPPROTO_TCP, TCP_REPAIR_OPTIONS, options.data(),
                   static_cast<socklen_t>(options.size() * sizeof(tcp_repair_opt))) != 0)
    throw_errno("cannot set what the ends of a connection had agreed on");
  if (connection.timestamp)
    set(socket, IPPROTO_TCP, TCP_TIMESTAMP, static_cast<int>(*connection.timestamp),
        "the time stamps");
}

// The end of what is received is not there yet; the window is one larger without it.
void set_window(const Fd& socket, const TcpConnection& connection) {
  if (!connection.window) return;
  tcp_repair_window window = *connection.window;
  if (has_received_end(connection.phase)) --window.rcv_wup, ++window.rcv_wnd;
  if (::setsockopt(socket.get(), IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, sizeof window) != 0)
    throw_errno("cannot set the window of a connection");
}

}  // namespace

tcp_info tcp_info_of(const Fd& socket) {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (::getsockopt(socket.get(), IPPROTO_TCP, TCP_INFO, &info, &size) != 0)
    throw_errno("cannot read the state of a connection");
  return info;
}

TcpPhase tcp_phase_of(const Fd& socket) {
  return static_cast<TcpPhase>(tcp_info_of(socket).tcpi_state);
}

void read_sending(const Fd& socket, OptionGuard& guard, TcpConnection& connection,
                  std::string& why_not) {
  const auto undo = end_of_repair(socket);
  const auto changed = changed_of(undo, why_not.empty());
  const OptionGuard::Scope scope(guard, changed.data(), changed.size());
  const bool repairs = why_not.empty() && may_repair(socket, why_not);
  read_agreed(socket, connection);  // in repair mode, TCP_MAXSEG is what was agreed on
  const bool ends = has_sent_end(connection.phase);
  if (!repairs) {
    connection.unsent = static_cast<uint32_t>(queue_size(socket, SIOCOUTQNSD));
    if (ends && connection.unsent) --connection.unsent;
    return;
  }
  // Only acknowledgements change it now, and make it shorter.
  constexpr size_t kMore = size_t{1} << 16;
  const uint32_t end = sequence(socket, TCP_SEND_QUEUE) - (ends ? 1 : 0);
  if (const size_t queued = queue_size(socket, SIOCOUTQ))
    connection.send_queue = peek(socket, queued + kMore);
  const auto bytes = static_cast<uint32_t>(connection.send_queue.size());
  const auto unsent = static_cast<uint32_t>(queue_size(socket, SIOCOUTQNSD));
  connection.unsent = std::min(bytes, unsent && ends ? unsent - 1 : unsent);
  connection.send_sequence = end - bytes;
}

void read_receiving(const Fd& socket, OptionGuard& guard, TcpConnection& connection,
                    std::string& why_not) {
  const auto undo = end_of_repair(socket);
  const auto changed = changed_of(undo, why_not.empty());
  const OptionGuard::Scope scope(guard, changed.data(), changed.size());
  const bool repairs = why_not.empty() && may_repair(socket, why_not);
  constexpr int kTries = 100;
  for (int i = 0; i < kTries; ++i) {
    const uint32_t before = repairs ? sequence(socket, TCP_RECV_QUEUE) : 0;
    const TcpPhase now = tcp_phase_of(socket);
    connection.receive_queue = peek_all(socket, connection.has_urgent_data);
    if (repairs) {
      tcp_repair_window window{};
      socklen_t size = sizeof window;
      if (::getsockopt(socket.get(), IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, &size) == 0)
        connection.window = window;
      if (sequence(socket, TCP_RECV_QUEUE) != before) continue;  // something came meanwhile
    }
    connection.bytes_received = tcp_info_of(socket).tcpi_bytes_received;
    // The end of the other side may have come since the first look.
    const bool ended = has_received_end(now);
    if (ended && connection.phase == TcpPhase::kEstablished)
      connection.phase = TcpPhase::kCloseWait;
    else if (ended && !has_received_end(connection.phase))
      connection.phase = TcpPhase::kClosing;
    else if (now == TcpPhase::kClosed)
      connection.phase = now;
    connection.receive_sequence = before - static_cast<uint32_t>(connection.receive_queue.size()) -
                                  (has_received_end(connection.phase) ? 1 : 0);
    return;
  }
  throw Error("", "packets keep coming in while it is being read");
}

void forget_what_has_arrived(TcpConnection& from, const TcpConnection& to) {
  if (!to.window) return;  // its sequence numbers are not known
  const uint32_t next = to.receive_sequence + static_cast<uint32_t>(to.receive_queue.size());
  const uint32_t arrived = next - from.send_sequence;  // modulo 2^32
  if (arrived > from.send_queue.size()) return;
  from.send_queue.erase(0, arrived);
  from.send_sequence += arrived;
  from.unsent = std::min(from.unsent, static_cast<uint32_t>(from.send_queue.size()));
  // The end of the window stays where it is.
  if (from.window) from.window->snd_wnd -= std::min(from.window->snd_wnd, arrived);
}

std::string peek_received(const Fd& socket, OptionGuard& guard) {
  const OptionGuard::Change undo = peek_offset_of(socket);
  const OptionGuard::Scope scope(guard, &undo, 1);
  bool has_urgent_data = false;
  return peek_all(socket, has_urgent_data);
}

// ---- Restoring ----------------------------------------------------------------------------------

void begin_repair(const Fd& socket) {
  set(socket, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON, "repair mode");
}

void connect_silently(const Fd& socket, const TcpConnection& connection,
                      const std::string& remote_address) {
  for (const auto& [queue, first] : {std::pair(TCP_RECV_QUEUE, connection.receive_sequence),
                                     std::pair(TCP_SEND_QUEUE, connection.send_sequence)}) {
    choose_queue(socket, queue);
    set(socket, IPPROTO_TCP, TCP_QUEUE_SEQ, static_cast<int>(first), "the sequence numbers");
  }
  // The size of packets is computed now, from what could be demanded of the other end at most.
  constexpr int kLargest = 32767, kSmallest = 88;  // MAX_TCP_WINDOW, TCP_MIN_MSS
  try_set(socket, IPPROTO_TCP, TCP_MAXSEG,
          std::clamp(static_cast<int>(connection.maximum_segment), kSmallest, kLargest));
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(remote_address.data()),
                static_cast<socklen_t>(remote_address.size())) != 0)
    throw_errno("cannot connect to the other end again");
  try_set(socket, IPPROTO_TCP, TCP_MAXSEG, 0);
  agree(socket, connection);
  make_room(socket, connection);
  choose_queue(socket, TCP_RECV_QUEUE);
  send_all(socket, connection.receive_queue, "that were received");
  choose_queue(socket, TCP_SEND_QUEUE);
  const std::string_view bytes = connection.send_queue;
  send_all(socket, bytes.substr(0, bytes.size() - connection.unsent), "that were sent");
  choose_queue(socket, TCP_NO_QUEUE);
  set_window(socket, connection);
}

void queue_unsent(const Fd& socket, const TcpConnection& connection) {
  if (connection.unsent == 0) return;
  make_room(socket, connection);
  set(socket, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP, "repair mode");
  const std::string_view bytes = connection.send_queue;
  send_all(socket, bytes.substr(bytes.size() - connection.unsent), "to be sent");
  begin_repair(socket);
}

void end_repair(const Fd& socket, bool reusable) {
  set(socket, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF, "repair mode");
  set(socket, SOL_SOCKET, SO_REUSEADDR, reusable, "SO_REUSEADDR");
}

void end_repair_of_closed(const Fd& socket, bool has_error) {
  set(socket, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP, "repair mode");
  if (!has_error) value_of(socket, SOL_SOCKET, SO_ERROR);
}

}  // namespace snapgdb
