// TCP, tcp(7): connections, listening sockets, and those that are neither.

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/network_lock.h"
#include "core/linux/task.h"
#include "core/resource/inet_restore.h"
#include "core/resource/inet_sockets.h"
#include "core/resource/resources.h"

namespace snapgdb {

TcpPhase phase_of(const pb::Socket& socket) {
  if (!socket.has_tcp()) return TcpPhase::kListening;
  return static_cast<TcpPhase>(socket.tcp().state());
}

void record_connection(const TcpConnection& connection, pb::TcpState& record) {
  record.set_state(static_cast<uint32_t>(connection.phase));
  record.set_send_sequence(connection.send_sequence);
  record.set_receive_sequence(connection.receive_sequence);
  record.set_send_queue(connection.send_queue);
  record.set_receive_queue(connection.receive_queue);
  record.set_unsent(connection.unsent);
  record.set_maximum_segment(connection.maximum_segment);
  record.set_has_selective_acks(connection.selective_acks);
  if (connection.window_scale) {
    record.set_has_window_scale(true);
    record.set_send_window_scale(connection.window_scale->send);
    record.set_receive_window_scale(connection.window_scale->receive);
  }
  if (connection.timestamp)
    record.set_has_timestamps(true), record.set_timestamp(*connection.timestamp);
  if (connection.window) record.set_window(&*connection.window, sizeof *connection.window);
}

namespace {

// Whoever captured it had the right to read all of it.
bool is_whole(const pb::TcpState& state) {
  return state.window().size() == sizeof(tcp_repair_window);
}

bool is_connection(const pb::Socket& socket) {
  return is_connected(phase_of(socket));
}

}  // namespace

TcpConnection connection_of(const pb::Socket& socket) {
  const pb::TcpState& state = socket.tcp();
  TcpConnection connection{.phase = phase_of(socket),
                           .send_sequence = state.send_sequence(),
                           .receive_sequence = state.receive_sequence(),
                           .send_queue = state.send_queue(),
                           .receive_queue = state.receive_queue(),
                           .maximum_segment = state.maximum_segment(),
                           .selective_acks = state.has_selective_acks()};
  connection.unsent = std::min(state.unsent(), static_cast<uint32_t>(connection.send_queue.size()));
  if (state.has_window_scale())
    connection.window_scale = {state.send_window_scale(), state.receive_window_scale()};
  if (state.has_timestamps()) connection.timestamp = state.timestamp();
  if (is_whole(state)) {
    std::memcpy(&connection.window.emplace(), state.window().data(), sizeof(tcp_repair_window));
  } else {
    // Both ends are in the tree, and nothing is on its way: any numbers do.
    constexpr uint32_t kNext = 1u << 28;
    connection.send_sequence = kNext;
    connection.receive_sequence = kNext - static_cast<uint32_t>(connection.receive_queue.size());
  }
  return connection;
}

// ---- Plan ---------------------------------------------------------------------------------------

std::string tcp_obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const pb::Socket& socket = descriptor.socket();
  if (!is_tcp(socket)) return "only TCP of the protocols with connections can be restored";
  if (!is_connection(socket) || is_whole(socket.tcp())) return "";
  if (socket.tcp().unsent())
    return fmt::format("{} bytes that wait to be sent are in an image that root captured only",
                       socket.tcp().unsent());
  return is_outside_connection(snapshot, descriptor)
             ? "its sequence numbers are in an image that root captured only"
             : "";
}

// ---- Opening ------------------------------------------------------------------------------------

namespace {

// Others of the tree may have the port, too: until they are all there.
void set_reusable(const Fd& socket, int reusable) {
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &reusable, sizeof reusable);
}

}  // namespace

Fd open_tcp(OpeningContext& context, const pb::Descriptor& descriptor) {
  const pb::Socket& record = descriptor.socket();
  Fd socket = make_socket(context, descriptor);
  const bool is_closed =
      context.closes_connections && is_outside_connection(context.snapshot, descriptor);
  if (is_closed) return socket;
  if (is_connection(record)) begin_repair(socket);  // which shares every port
  if (!is_connection(record)) set_reusable(socket, 1);
  // What is left of a connection that has ended may still have its port (TIME-WAIT).
  const bool has_ended = phase_of(record) == TcpPhase::kClosed && record.shutdown();
  if (!has_ended) bind_again(context, socket, descriptor);
  if (is_connection(record)) {
    connect_silently(socket, connection_of(record), usable_here(context, record.remote_address()));
    set_reusable(socket, 1);
  }
  return socket;
}

namespace {

// Of a connection whose other end will not send it again.
void receive_end(OpeningContext& context, const OpenSocket& open) {
  const pb::Socket& record = open.descriptor->socket();
  const TcpConnection connection = connection_of(record);
  const TcpPhase before = tcp_phase_of(*open.socket);
  inject_end(*NetworkAddress::of(record.remote_address()),
             *NetworkAddress::of(record.local_address()),
             {connection.receive_sequence + static_cast<uint32_t>(connection.receive_queue.size()),
              connection.send_sequence});
  constexpr int kTries = 1000;
  for (int i = 0; i < kTries && tcp_phase_of(*open.socket) == before; ++i) ::usleep(1000);
  if (tcp_phase_of(*open.socket) == before)
    context.notes.push_back(fmt::format("{} does not know that its other end has ended",
                                        printable(open.descriptor->target())));
}

// Which had begun to connect. Nobody waits for it here.
void begin_to_connect(OpeningContext& context, const OpenSocket& open) {
  const int flags = ::fcntl(open.socket->get(), F_GETFL);
  ::fcntl(open.socket->get(), F_SETFL, flags | O_NONBLOCK);
  errno = 0;
  const std::string& remote = open.descriptor->socket().remote_address();
  if (::connect(open.socket->get(), reinterpret_cast<const sockaddr*>(remote.data()),
                static_cast<socklen_t>(remote.size())) != 0 &&
      errno != EINPROGRESS)
    context.notes.push_back(fmt::format("{} cannot go on to connect: {}",
                                        printable(open.descriptor->target()), errno_text(errno)));
  ::fcntl(open.socket->get(), F_SETFL, flags);
}

void listen_again(OpeningContext& context, const OpenSocket& open) {
  const pb::Socket& record = open.descriptor->socket();
  if (::listen(open.socket->get(), static_cast<int>(record.backlog())) != 0)
    throw_errno("cannot listen on {}", printable(record.local()));
  if (record.receive_queue())
    context.notes.push_back(fmt::format("{} connections to {} that were not accepted are lost",
                                        record.receive_queue(), printable(record.local())));
}

void finish_unconnected(OpeningContext& context, const OpenSocket& open) {
  const pb::Socket& record = open.descriptor->socket();
  set_reusable(*open.socket, number_option(record, SOL_SOCKET, SO_REUSEADDR));
  if (phase_of(record) == TcpPhase::kSynSent) begin_to_connect(context, open);
  if (phase_of(record) != TcpPhase::kListening) shut_down_again(*open.socket, record.shutdown());
}

}  // namespace

void finish_tcp(OpeningContext& context, std::span<const OpenSocket> sockets) {
  const auto is_left_alone = [&](const OpenSocket& open) {
    return context.closes_connections && is_outside_connection(context.snapshot, *open.descriptor);
  };
  for (const OpenSocket& open : sockets)
    if (phase_of(open.descriptor->socket()) == TcpPhase::kListening) listen_again(context, open);
  std::vector<OpenSocket> connections;
  for (const OpenSocket& open : sockets) {
    if (is_left_alone(open))
      shut_down_again(*open.socket, 3);  // reading is at its end, writing fails
    else if (is_connection(open.descriptor->socket()))
      connections.push_back(open);
    else
      finish_unconnected(context, open);
  }
  for (const OpenSocket& open : connections) {
    queue_unsent(*open.socket, connection_of(open.descriptor->socket()));
    // Buffers had to be larger.
    restore_options(context, *open.socket, common_socket_options(), *open.descriptor);
  }
  // Who has received the end of the other side before sending their own, the others, and who has
  // sent their own before.
  const auto receives = [&](const OpenSocket& open, bool after_sending) {
    const TcpPhase phase = phase_of(open.descriptor->socket());
    if (has_received_end(phase) && (phase == TcpPhase::kClosing) == after_sending &&
        is_outside_connection(context.snapshot, *open.descriptor))
      receive_end(context, open);
  };
  for (const OpenSocket& open : connections) receives(open, false);
  for (const OpenSocket& open : connections)
    if (has_sent_end(phase_of(open.descriptor->socket()))) ::shutdown(open.socket->get(), SHUT_WR);
  for (const OpenSocket& open : connections) receives(open, true);
  for (const OpenSocket& open : connections)
    if (open.descriptor->socket().shutdown() & 1 &&
        !has_received_end(phase_of(open.descriptor->socket())))
      ::shutdown(open.socket->get(), SHUT_RD);
}

// ---- Before the tree runs -----------------------------------------------------------------------

void let_connections_go(const RestoreContext& context) {
  const RestorePlan& plan = context.plan;
  if (plan.connections == RestorePlan::Connections::kKept &&
      has_outside_connections(context.snapshot)) {
    const std::string name = lock_name(context.snapshot.record());
    if (const std::string why = NetworkLock::remove(name); !why.empty())
      context.notes.push_back(
          fmt::format("the network was not locked for this tree ({}): other ends may have closed "
                      "their connections",
                      printable(why)));
  }
  for (size_t i = 0; i < plan.files.size(); ++i) {
    const pb::Descriptor* descriptor = plan.files[i].descriptor;
    if (plan.files[i].how != PlannedFile::How::kOpened || !descriptor ||
        !descriptor->has_socket() || !is_tcp(descriptor->socket()) ||
        !is_connection(descriptor->socket()) ||
        (plan.connections == RestorePlan::Connections::kClosed &&
         is_outside_connection(context.snapshot, *descriptor)))
      continue;
    const Fd socket = duplicate_descriptor(context.keeper, plan.file_base + static_cast<int>(i));
    if (!socket.valid()) throw_errno("cannot reach {}", plan.files[i].what);
    if (tcp_phase_of(socket) != TcpPhase::kClosed)  // its other end may have been faster
      end_repair(socket, number_option(descriptor->socket(), SOL_SOCKET, SO_REUSEADDR));
  }
}

}  // namespace snapgdb
