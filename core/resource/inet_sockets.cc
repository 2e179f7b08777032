// Sockets of AF_INET and AF_INET6, ip(7): what is common to all of them.

#include "core/resource/inet_sockets.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <set>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/inet_options.h"
#include "core/linux/network.h"
#include "core/resource/inet_restore.h"
#include "core/resource/resources.h"
#include "core/resource/spaces.h"

namespace snapgdb {
namespace {

// What has been shut down, as far as poll(2) tells: of sending only, a connection does.
uint32_t shutdown_of(const pollfd& look, TcpPhase phase) {
  uint32_t how = look.revents & POLLRDHUP ? 1 : 0;
  if ((look.revents & POLLRDHUP && look.revents & POLLHUP) || has_sent_end(phase)) how |= 2;
  return how;
}

// Of the protocol between a connection and its program, as tls; "" if there is none.
std::string upper_protocol(const Fd& socket) {
  char name[16] = {};  // TCP_ULP_NAME_MAX
  socklen_t size = sizeof name;
  const bool has_one = ::getsockopt(socket.get(), IPPROTO_TCP, TCP_ULP, name, &size) == 0;
  return has_one ? std::string(name, ::strnlen(name, std::min<size_t>(size, sizeof name))) : "";
}

void capture(CaptureContext& context, const OpenDescriptor& open, const Fd& socket,
             pb::Descriptor& out) {
  pb::Socket& record = *out.mutable_socket();
  capture_options(socket, network_options(), record);
  TcpPhase phase = TcpPhase::kClosed;
  if (is_tcp(record)) {
    const tcp_info info = tcp_info_of(socket);
    phase = static_cast<TcpPhase>(info.tcpi_state);
    if (const std::string upper = upper_protocol(socket); !upper.empty())
      record.set_why_incomplete(fmt::format("the kernel keeps the state of {} to itself", upper));
    // Of a listening one, these are the length of the queue and its limit (tcp_get_info()).
    if (phase == TcpPhase::kListening)
      record.set_backlog(info.tcpi_sacked), record.set_receive_queue(info.tcpi_unacked);
    else
      record.mutable_tcp()->set_state(info.tcpi_state);
  }
  pollfd look{socket.get(), POLLRDHUP, 0};
  ::poll(&look, 1, 0);
  record.set_shutdown(shutdown_of(look, phase));
  if (look.revents & POLLERR && phase == TcpPhase::kClosed) record.set_state(kReset);
  if (!is_tcp(record)) capture_datagram_state(context, open, socket, record);
  record.set_corked(number_option(record, IPPROTO_TCP, TCP_CORK) && is_tcp(record));
  Fd kept(::fcntl(socket.get(), F_DUPFD_CLOEXEC, 0));
  if (!kept.valid()) throw_errno("cannot duplicate a descriptor");
  context.inet.add(out.description(), std::move(kept));
}

// At the same place in both kinds of addresses, and much quicker told than all of one: of very many
// sockets, each is compared with each.
bool has_port(const std::string& address, uint16_t port) {
  uint16_t theirs = 0;
  constexpr size_t kAt = offsetof(sockaddr_in, sin_port);
  static_assert(kAt == offsetof(sockaddr_in6, sin6_port));
  if (address.size() < kAt + sizeof theirs) return false;
  std::memcpy(&theirs, address.data() + kAt, sizeof theirs);
  return ntohs(theirs) == port;
}

struct EndPoints {
  NetworkAddress local, remote;
  auto operator<=>(const EndPoints&) const = default;
};

std::optional<EndPoints> ends_of(const pb::Socket& socket) {
  const auto local = NetworkAddress::of(socket.local_address());
  const auto remote = NetworkAddress::of(socket.remote_address());
  if (!local || !remote) return std::nullopt;
  return EndPoints{*local, *remote};
}

bool is_connection(const pb::Socket& socket) {
  return is_tcp(socket) && is_connected(phase_of(socket));
}

// Nobody has accepted some that came in at the listening one, and this one leads to it.
bool may_wait_at(const pb::Socket& socket, const pb::Socket& listening) {
  if (!is_tcp(listening) || !listening.receive_queue() ||
      phase_of(listening) != TcpPhase::kListening)
    return false;
  const auto at = NetworkAddress::of(listening.local_address());
  const auto to = NetworkAddress::of(socket.remote_address());
  return at && to && at->port == to->port && (at->is_any() || *at == *to);
}

// Of the network namespace that it is in; 0 before Linux 5.14.
uint64_t network_cookie(const Fd& socket) {
  constexpr int kCookie = 71;  // SO_NETNS_COOKIE
  uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  return ::getsockopt(socket.get(), SOL_SOCKET, kCookie, &cookie, &size) == 0 ? cookie : 0;
}

// Between both ends: in a queue of neither.
void add_what_is_on_its_way(TcpConnection& from, const TcpConnection& to) {
  const uint64_t end = has_received_end(to.phase) ? 1 : 0;
  const uint64_t arrived = to.bytes_received - end;
  if (from.bytes_sent > arrived) from.unsent += static_cast<uint32_t>(from.bytes_sent - arrived);
}

}  // namespace

// ---- Capture ------------------------------------------------------------------------------------

std::string lock_name(const pb::SnapshotRecord& record) {
  return fmt::format("snapgdb-{}-{}", record.root_pid(), record.realtime_ns());
}

void InetSockets::add(uint32_t description, Fd socket) {
  const std::lock_guard lock(mutex_);
  sockets_.try_emplace(description, std::move(socket));
}

std::vector<InetSockets::Entry> InetSockets::entries_in(std::vector<pb::Process>& processes) const {
  std::vector<Entry> entries;
  std::set<uint32_t> done;
  for (pb::Process& process : processes)
    for (auto* descriptors : {process.mutable_descriptors(), process.mutable_in_flight()})
      for (pb::Descriptor& descriptor : *descriptors) {
        const auto socket = sockets_.find(descriptor.description());
        if (descriptor.has_socket() && socket != sockets_.end() &&
            done.insert(descriptor.description()).second)
          entries.push_back({process.pid(), &descriptor, &socket->second});
      }
  return entries;
}

void InetSockets::read(CaptureContext& context, std::vector<pb::Process>& processes,
                       const NetworkOptions& options, const std::string& lock) {
  std::vector<Entry> entries = entries_in(processes), connections;
  std::ranges::copy_if(entries, std::back_inserter(connections),
                       [](const Entry& entry) { return is_connection(entry.record->socket()); });
  std::set<EndPoints> known;
  for (const Entry& entry : connections)
    if (const auto ends = ends_of(entry.record->socket())) known.insert(*ends);
  std::vector<NetworkLock::Connection> outside;
  const Fd ours(options.keeps_connections ? ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1);
  for (Entry& entry : connections) {
    const auto ends = ends_of(entry.record->socket());
    const bool has_no_end = ends && !known.contains({ends->remote, ends->local});
    const bool waits = has_no_end && std::ranges::any_of(entries, [&](const Entry& other) {
                         return may_wait_at(entry.record->socket(), other.record->socket());
                       });
    const bool is_outside = has_no_end && !waits;
    // The kernel shows it to nobody: no loss that a better capture would spare.
    if (waits && tcp_info_of(*entry.socket).tcpi_bytes_sent)
      entry.record->mutable_socket()->set_why_incomplete(
          "what it has sent over a connection that nobody has accepted cannot be read");
    if (is_outside) outside.emplace_back(ends->local, ends->remote);
    if (is_outside && options.keeps_connections &&
        network_cookie(*entry.socket) != network_cookie(ours))
      throw Error("cannot lock the network of " + printable(entry.record->target()),
                  "it is another one than ours",
                  fmt::format("run snapgdb in it: nsenter -t {} -n", entry.pid));
    entry.is_left = is_outside && !options.keeps_connections;
    if (entry.is_left) entry.why_not = "it is a connection to outside, which was not kept";
    if (!options.ends || entry.is_left) continue;
    ends_.silent.emplace_back(::fcntl(entry.socket->get(), F_DUPFD_CLOEXEC, 0));
  }
  if (options.keeps_connections && !outside.empty())
    ends_.lock = std::make_unique<NetworkLock>(lock, outside);
  read_connections(context, connections, options);
  OptionGuard& guard = context.option_guard;
  for (Entry& entry : entries) {
    const pb::Socket& record = entry.record->socket();
    const bool is_closed = is_tcp(record) && phase_of(record) == TcpPhase::kClosed;
    if (is_closed) read_closed(*entry.record, *entry.socket, guard);
    if (!is_tcp(record)) read_datagrams(context, entry.pid, *entry.record, *entry.socket, guard);
  }
  sockets_.clear();  // of which we would be a holder, while the tree runs on and closes its own
}

// What all of them send before what any receives, see read_sending().
void InetSockets::read_connections(CaptureContext& context, std::vector<Entry>& connections,
                                   const NetworkOptions& options) {
  for (const auto read : {read_sending, read_receiving})
    for (Entry& entry : connections) {
      pb::Socket& record = *entry.record->mutable_socket();
      try {
        if (record.why_incomplete().empty())
          read(*entry.socket, context.option_guard, entry.connection, entry.why_not);
      } catch (const Error& error) {
        record.set_why_incomplete(error.what());
        context.lacks({entry.pid}, {}, entry.record->target(), error.what());
      }
    }
  std::map<EndPoints, const TcpConnection*> known;
  for (const Entry& entry : connections)
    if (const auto ends = ends_of(entry.record->socket())) known[*ends] = &entry.connection;
  for (Entry& entry : connections) {
    const auto ends = ends_of(entry.record->socket());
    const auto other = ends ? known.find({ends->remote, ends->local}) : known.end();
    if (other == known.end()) continue;
    (entry.why_not.empty() ? forget_what_has_arrived : add_what_is_on_its_way)(entry.connection,
                                                                               *other->second);
  }
  for (Entry& entry : connections) {
    record_connection(entry.connection, *entry.record->mutable_socket()->mutable_tcp());
    if (!entry.is_left && !entry.why_not.empty() &&
        (entry.connection.unsent || options.keeps_connections))
      context.lacks({entry.pid}, {}, "connection of " + entry.record->target(), entry.why_not);
    if (entry.connection.has_urgent_data)
      context.lacks({entry.pid}, {}, "urgent mark of " + entry.record->target(),
                    "the kernel does not tell where it is");
  }
}

void InetSockets::Ends::prepare() {
  for (const Fd& connection : silent) {
    try {
      begin_repair(connection);
    } catch (const SystemError&) {
      // Without the right to, or closed by its other end meanwhile: then they tell each other.
    }
  }
  if (lock) lock->stay();
}

// ---- Restoring ----------------------------------------------------------------------------------

bool is_inet(const pb::Socket& socket) {
  return socket.domain() == AF_INET || socket.domain() == AF_INET6;
}

bool is_tcp(const pb::Socket& socket) {
  return is_inet(socket) && socket.protocol() == IPPROTO_TCP && socket.type() == SOCK_STREAM;
}

bool is_udp(const pb::Socket& socket) {
  return is_inet(socket) && socket.type() == SOCK_DGRAM &&
         (socket.protocol() == IPPROTO_UDP || socket.protocol() == IPPROTO_UDPLITE);
}

int number_option(const pb::Socket& socket, int level, int name) {
  for (const pb::SocketOption& option : socket.options())
    if (option.level() == level && option.name() == name && option.value().size() == sizeof(int)) {
      int value = 0;
      std::memcpy(&value, option.value().data(), sizeof value);
      return value;
    }
  return 0;
}

Fd make_socket(OpeningContext& context, const pb::Descriptor& descriptor) {
  const pb::Socket& record = descriptor.socket();
  const auto status = static_cast<int>(descriptor.flags() & O_NONBLOCK);
  Fd socket;
  context.spaces->in("net", record.network_namespace(), [&] {
    socket =
        Fd(::socket(record.domain(), record.type() | SOCK_CLOEXEC | status, record.protocol()));
  });
  if (!socket.valid()) throw_errno("cannot make {}", printable(descriptor.target()));
  restore_options(context, socket, common_socket_options(), descriptor);
  restore_options(context, socket, network_options(), descriptor);
  return socket;
}

// A network of the tree's own has it.
bool is_here(std::string address) {
  sockaddr_in6 name{};
  std::memcpy(&name, address.data(), std::min(sizeof name, address.size()));
  name.sin6_port = 0;  // where struct sockaddr_in has its own
  const Fd trial(::socket(name.sin6_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  return trial.valid() && ::bind(trial.get(), reinterpret_cast<const sockaddr*>(&name),
                                 static_cast<socklen_t>(address.size())) == 0;
}

// A network below has it, and is reached from the first process's as it was.
bool is_reached_in_tree(const RestorePlan& plan, const NetworkAddress& host) {
  return plan.network && std::ranges::any_of(plan.spaces, [&](const pb::NamespaceState* space) {
           return std::ranges::any_of(
               space->network().addresses(),
               [&](const std::string& address) { return is_address_of(address, host); });
         });
}

// A sandbox has the addresses that the tree had, and a device for all of them.
std::string usable_here(OpeningContext& context, const pb::Socket& socket, std::string address) {
  const auto known = NetworkAddress::of(address);
  const bool has_its_own = is_in_space(context.plan, socket.network_namespace());
  if (!context.sandbox || !known || has_its_own || is_here(address)) return address;
  NetworkAddress host = *known;
  host.port = 0;
  const bool is_there = host.is_any() || host.is_loopback() || host.is_multicast();
  if (!is_there && !context.local_addresses.contains(host) &&
      !is_reached_in_tree(context.plan, host)) {
    add_local_address(host);
    context.local_addresses.insert(host);
  }
  if (address.size() == sizeof(sockaddr_in6)) {
    sockaddr_in6 in6{};
    std::memcpy(&in6, address.data(), sizeof in6);
    if (in6.sin6_scope_id) in6.sin6_scope_id = 1;
    std::memcpy(address.data(), &in6, sizeof in6);
  }
  return address;
}

namespace {

bool bind_to(const Fd& socket, const std::string& address) {
  return ::bind(socket.get(), reinterpret_cast<const sockaddr*>(address.data()),
                static_cast<socklen_t>(address.size())) == 0;
}

// Also to an address that the host does not have, as it may have been when it was allowed to.
bool bind_freely(const Fd& socket, const std::string& address) {
  const auto allow = [&](int on) {
    return ::setsockopt(socket.get(), IPPROTO_IP, IP_FREEBIND, &on, sizeof on) == 0;
  };
  return allow(1) && bind_to(socket, address) && allow(0);
}

}  // namespace

// Whether the port is another socket's, too, which one of both must have allowed when it was
// bound (SO_REUSEPORT), whatever it says by now.
bool shares_port(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const auto local = NetworkAddress::of(descriptor.socket().local_address());
  const auto allows_others = [](const pb::Socket& socket) {
    return !is_tcp(socket) && number_option(socket, SOL_SOCKET, SO_REUSEADDR);
  };
  const auto is_beside = [&](const pb::Descriptor& other) {
    if (!other.has_socket() || !has_port(other.socket().local_address(), local->port) ||
        other.inode() == descriptor.inode() ||
        other.socket().domain() != descriptor.socket().domain() ||
        other.socket().protocol() != descriptor.socket().protocol() ||
        phase_of(other.socket()) != phase_of(descriptor.socket()) ||
        (allows_others(other.socket()) && allows_others(descriptor.socket())))
      return false;
    const auto theirs = NetworkAddress::of(other.socket().local_address());
    return theirs && (theirs->is_any() || local->is_any() || *theirs == *local);
  };
  return local && local->port && has_descriptor_that(snapshot, is_beside);
}

void set_port_shared(const Fd& socket, int shared) {
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEPORT, &shared, sizeof shared);
}

void bind_again(OpeningContext& context, const Fd& socket, const pb::Descriptor& descriptor) {
  const pb::Socket& record = descriptor.socket();
  const auto local = NetworkAddress::of(record.local_address());
  const bool has_port = local && local->port && record.type() != SOCK_RAW;
  if (!local || (local->is_any() && !has_port)) return;
  const std::string address = usable_here(context, record, record.local_address());
  if (bind_to(socket, address)) return;
  if (errno == EADDRNOTAVAIL && !is_connection(record) && bind_freely(socket, address))
    return context.notes.push_back(
        fmt::format("{} is bound to {}, an address that this host does not have",
                    printable(descriptor.target()), printable(record.local())));
  const std::string why = errno_text(errno);
  throw Error(
      fmt::format("cannot bind a socket to {}", printable(record.local())), why,
      "end who uses it; what is left of closed connections goes within a minute (TIME-WAIT); "
      "or --isolated, or --without socket");
}

namespace {

// Of one that does not wait for it itself; false, with errno: it is not.
bool becomes_connected(const Fd& socket) {
  constexpr int kPatienceMs = 1000;
  pollfd look{socket.get(), POLLOUT, 0};
  int error = ETIMEDOUT;
  socklen_t size = sizeof error;
  if (::poll(&look, 1, kPatienceMs) == 1)
    ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  errno = error;
  return error == 0;
}

}  // namespace

void connect_again(OpeningContext& context, const Fd& socket, const pb::Descriptor& descriptor) {
  const pb::Socket& record = descriptor.socket();
  if (record.remote_address().empty()) return;
  const std::string address = usable_here(context, record, record.remote_address());
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(address.data()),
                static_cast<socklen_t>(address.size())) != 0 &&
      !(errno == EINPROGRESS && becomes_connected(socket)))
    context.notes.push_back(fmt::format("{} is not connected to {} again: {}",
                                        printable(descriptor.target()), printable(record.remote()),
                                        errno_text(errno)));
}

// Of a socket that is not connected it is said to fail, and is done (inet_shutdown()).
void shut_down_again(const Fd& socket, uint32_t how) {
  if (how) ::shutdown(socket.get(), static_cast<int>(how) - 1);
}

namespace {

std::string obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const int type = descriptor.socket().type();
  return type == SOCK_DGRAM || type == SOCK_RAW ? "" : tcp_obstacle(snapshot, descriptor);
}

Fd open_socket(OpeningContext& context, const pb::Descriptor& descriptor) {
  return is_tcp(descriptor.socket()) ? open_tcp(context, descriptor)
                                     : open_datagram(context, descriptor);
}

void finish(OpeningContext& context, const RestorePlan& plan, std::span<const Fd> files) {
  std::vector<OpenSocket> connections;
  for (size_t i = 0; i < files.size(); ++i) {
    const pb::Descriptor* descriptor = plan.files[i].descriptor;
    if (plan.files[i].how != PlannedFile::How::kOpened || !descriptor ||
        !descriptor->has_socket() || !is_inet(descriptor->socket()))
      continue;
    if (is_tcp(descriptor->socket()))
      connections.push_back({descriptor, &files[i]});
    else
      finish_datagram(context, {descriptor, &files[i]});
  }
  finish_tcp(context, connections);
}

bool is_from_outside(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  return is_outside_connection(snapshot, descriptor);
}

}  // namespace

namespace {

bool has_socket_that(const Snapshot& snapshot, const auto& is_it) {
  return has_descriptor_that(snapshot, [&](const pb::Descriptor& other) {
    return other.has_socket() && is_it(other.socket());
  });
}

bool has_other_end(const Snapshot& snapshot, const EndPoints& ends) {
  return has_socket_that(snapshot, [&](const pb::Socket& other) {
    return has_port(other.local_address(), ends.remote.port) &&
           has_port(other.remote_address(), ends.local.port) && is_connection(other) &&
           ends_of(other) == EndPoints{ends.remote, ends.local};
  });
}

}  // namespace

bool is_outside_connection(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  if (!descriptor.has_socket() || !is_connection(descriptor.socket())) return false;
  const auto ends = ends_of(descriptor.socket());
  return ends && !has_other_end(snapshot, *ends) && !waits_to_be_accepted(snapshot, descriptor);
}

bool waits_to_be_accepted(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const pb::Socket& socket = descriptor.socket();
  const auto ends = ends_of(socket);
  return ends && is_connection(socket) && !has_other_end(snapshot, *ends) &&
         has_socket_that(snapshot,
                         [&](const pb::Socket& other) { return may_wait_at(socket, other); });
}

bool is_tcp_connection(const pb::Descriptor& descriptor) {
  return descriptor.has_socket() && is_connection(descriptor.socket());
}

bool has_outside_connections(const Snapshot& snapshot) {
  return has_descriptor_that(snapshot, [&](const pb::Descriptor& descriptor) {
    return is_outside_connection(snapshot, descriptor);
  });
}

// `finish` is of both.
const SocketFamily kInetSockets{AF_INET, capture, obstacle, open_socket, finish, is_from_outside};
const SocketFamily kInet6Sockets{AF_INET6,    capture, obstacle,
                                 open_socket, nullptr, is_from_outside};

}  // namespace snapgdb
