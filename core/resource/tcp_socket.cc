// TCP, tcp(7): connections, listening sockets, and those that are neither.

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <map>

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

// Whoever captured it had the right to read all of it, and did.
bool is_whole(const pb::TcpState& state) {
  return state.window().size() == sizeof(tcp_repair_window);
}

bool is_connection(const pb::Socket& socket) {
  return is_connected(phase_of(socket));
}

// Its other end has ended it, and the program has not heard all of that yet.
bool is_cut_off(const pb::Socket& socket) {
  return phase_of(socket) == TcpPhase::kClosed &&
         (socket.state() == kReset || !socket.tcp().receive_queue().empty());
}

std::string protocol_name(const pb::Socket& socket) {
  static const std::map<int, const char*> kNames{{IPPROTO_MPTCP, "multipath TCP (MPTCP)"},
                                                 {IPPROTO_SCTP, "SCTP"},
                                                 {IPPROTO_DCCP, "DCCP"},
                                                 {256, "SMC"}};  // IPPROTO_SMC, Linux 6.11
  const auto known = kNames.find(socket.protocol());
  return known == kNames.end() ? fmt::format("protocol {} with connections", socket.protocol())
                               : known->second;
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

void read_closed(pb::Descriptor& descriptor, const Fd& socket, OptionGuard& guard) {
  pb::Socket& record = *descriptor.mutable_socket();
  if (record.receive_queue()) record.mutable_tcp()->set_receive_queue(peek_received(socket, guard));
}

// ---- Plan ---------------------------------------------------------------------------------------

std::string tcp_obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const pb::Socket& socket = descriptor.socket();
  if (!is_tcp(socket)) return protocol_name(socket) + " cannot be restored";
  if (!is_connection(socket) || is_whole(socket.tcp()) ||
      waits_to_be_accepted(snapshot, descriptor))
    return "";
  if (is_outside_connection(snapshot, descriptor))
    return "its sequence numbers are in an image that root captured with --tcp-established only";
  return socket.tcp().unsent()
             ? fmt::format("{} bytes that wait to be sent are in an image that root captured only",
                           socket.tcp().unsent())
             : "";
}

// ---- Opening ------------------------------------------------------------------------------------

namespace {

// Others of the tree may have the port, too: until they are all there.
void set_reusable(const Fd& socket, int reusable) {
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &reusable, sizeof reusable);
}

void await_other_phase(OpeningContext& context, const OpenSocket& open, TcpPhase before) {
  constexpr int kTries = 1000;
  for (int i = 0; i < kTries && tcp_phase_of(*open.socket) == before; ++i) ::usleep(1000);
  if (tcp_phase_of(*open.socket) == before)
    context.notes.push_back(fmt::format("{} does not know that its other end has ended",
                                        printable(open.descriptor->target())));
}

// Of the socket's own host, on a port that nobody else has: who ended a connection is not known.
std::string some_other_end(const pb::Socket& socket) {
  static uint16_t last = 0;
  std::string address = socket.local_address();
  const uint16_t port = htons(++last);
  std::memcpy(address.data() + offsetof(sockaddr_in, sin_port), &port, sizeof port);
  return address;
}

// As a connection, which is broken off when all are there (finish_cut_off()).
void connect_cut_off(OpeningContext& context, const Fd& socket, const pb::Descriptor& descriptor) {
  pb::Descriptor connected = descriptor;
  connected.mutable_socket()->set_remote_address(some_other_end(descriptor.socket()));
  try {
    begin_repair(socket);
    bind_again(context, socket, connected);
    connect_silently(socket, connection_of(connected.socket()),
                     usable_here(context, connected.socket(), connected.socket().remote_address()));
    set_reusable(socket, 1);
  } catch (const Error& error) {
    context.notes.push_back(fmt::format(
        "{} lacks {} bytes that were not read, or an error, of a connection that had ended: {}",
        printable(descriptor.target()), descriptor.socket().tcp().receive_queue().size(),
        error.what()));
  }
}

void finish_cut_off(OpeningContext& context, const OpenSocket& open) {
  const pb::Socket& record = open.descriptor->socket();
  const Fd& socket = *open.socket;
  if (!is_connected(tcp_phase_of(socket))) return;  // it could not be made one
  const TcpConnection connection = connection_of(record);
  const SocketDescription here = describe_socket(socket);
  inject_reset(
      *NetworkAddress::of(here.remote_address), *NetworkAddress::of(here.local_address),
      {connection.receive_sequence + static_cast<uint32_t>(connection.receive_queue.size()),
       connection.send_sequence});
  await_other_phase(context, open, TcpPhase::kEstablished);
  const bool has_error = record.state() == kReset;  // that nobody has fetched
  if (has_error)
    context.notes.push_back(fmt::format(
        "{} tells that its connection was reset, whichever error it was that nobody had fetched",
        printable(open.descriptor->target())));
  end_repair_of_closed(socket, has_error);
  set_reusable(socket, number_option(record, SOL_SOCKET, SO_REUSEADDR));
}

}  // namespace

Fd open_tcp(OpeningContext& context, const pb::Descriptor& descriptor) {
  const pb::Socket& record = descriptor.socket();
  Fd socket = make_socket(context, descriptor);
  if (is_cut_off(record)) return connect_cut_off(context, socket, descriptor), std::move(socket);
  if (waits_to_be_accepted(context.snapshot, descriptor)) {
    set_reusable(socket, 1);
    return bind_again(context, socket, descriptor), std::move(socket);
  }
  const bool is_closed =
      context.closes_connections && is_outside_connection(context.snapshot, descriptor);
  if (is_closed) return socket;
  if (is_connection(record)) begin_repair(socket);  // which shares every port
  if (!is_connection(record)) set_reusable(socket, 1);
  const bool is_listening = phase_of(record) == TcpPhase::kListening;
  if (is_listening && shares_port(context.snapshot, descriptor)) set_port_shared(socket, 1);
  // What is left of a connection that has ended may still have its port (TIME-WAIT).
  const bool has_ended = phase_of(record) == TcpPhase::kClosed && record.shutdown();
  if (!has_ended) bind_again(context, socket, descriptor);
  if (is_connection(record)) {
    connect_silently(socket, connection_of(record),
                     usable_here(context, record, record.remote_address()));
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
  await_other_phase(context, open, before);
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

void listen_again(const OpenSocket& open) {
  const pb::Socket& record = open.descriptor->socket();
  if (::listen(open.socket->get(), static_cast<int>(record.backlog())) != 0)
    throw_errno("cannot listen on {}", printable(record.local()));
}

// Nobody has to accept it.
void connect_waiting(OpeningContext& context, const OpenSocket& open) {
  connect_again(context, *open.socket, *open.descriptor);
  const pb::Socket& record = open.descriptor->socket();
  set_reusable(*open.socket, number_option(record, SOL_SOCKET, SO_REUSEADDR));
  const std::string& unsent = record.tcp().send_queue();
  if (::send(open.socket->get(), unsent.data(), unsent.size(), MSG_DONTWAIT | MSG_NOSIGNAL) !=
      static_cast<ssize_t>(unsent.size()))
    context.notes.push_back(fmt::format("{} lacks {} bytes that it had to send",
                                        printable(open.descriptor->target()), unsent.size()));
}

// How many connections wait at a listening socket that are not made again.
void say_lost_connections(OpeningContext& context, const OpenSocket& open) {
  const pb::Socket& record = open.descriptor->socket();
  const uint32_t waiting = tcp_info_of(*open.socket).tcpi_unacked;
  if (record.receive_queue() > waiting)
    context.notes.push_back(fmt::format("{} connections to {} that were not accepted are lost",
                                        record.receive_queue() - waiting,
                                        printable(record.local())));
}

void finish_unconnected(OpeningContext& context, const OpenSocket& open) {
  const pb::Socket& record = open.descriptor->socket();
  if (is_cut_off(record)) return finish_cut_off(context, open);
  set_reusable(*open.socket, number_option(record, SOL_SOCKET, SO_REUSEADDR));
  if (shares_port(context.snapshot, *open.descriptor))
    set_port_shared(*open.socket, number_option(record, SOL_SOCKET, SO_REUSEPORT));
  if (phase_of(record) == TcpPhase::kSynSent) begin_to_connect(context, open);
  if (phase_of(record) != TcpPhase::kListening) shut_down_again(*open.socket, record.shutdown());
}

}  // namespace

void finish_tcp(OpeningContext& context, std::span<const OpenSocket> sockets) {
  const auto is_left_alone = [&](const OpenSocket& open) {
    return context.closes_connections && is_outside_connection(context.snapshot, *open.descriptor);
  };
  for (const OpenSocket& open : sockets)
    if (phase_of(open.descriptor->socket()) == TcpPhase::kListening) listen_again(open);
  std::vector<OpenSocket> connections;
  for (const OpenSocket& open : sockets) {
    if (waits_to_be_accepted(context.snapshot, *open.descriptor))
      connect_waiting(context, open);
    else if (is_left_alone(open))
      shut_down_again(*open.socket, 3);  // reading is at its end, writing fails
    else if (is_connection(open.descriptor->socket()))
      connections.push_back(open);
    else
      finish_unconnected(context, open);
  }
  for (const OpenSocket& open : sockets)
    if (phase_of(open.descriptor->socket()) == TcpPhase::kListening)
      say_lost_connections(context, open);
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

namespace {

// Its sequence numbers are in the image of who captured it with a lock only.
bool was_locked(const Snapshot& snapshot) {
  return has_descriptor_that(snapshot, [&](const pb::Descriptor& descriptor) {
    return is_outside_connection(snapshot, descriptor) && is_whole(descriptor.socket().tcp());
  });
}

void unlock_network(const RestoreContext& context) {
  using Connections = RestorePlan::Connections;
  const std::string name = lock_name(context.snapshot.record());
  if (context.plan.connections == Connections::kKept && has_outside_connections(context.snapshot)) {
    if (const std::string why = NetworkLock::remove(name); !why.empty())
      context.notes.push_back(
          fmt::format("the network was not locked for this tree ({}): other ends may have closed "
                      "their connections",
                      printable(why)));
  } else if (context.plan.connections == Connections::kClosed && was_locked(context.snapshot)) {
    const std::string why =
        context.plan.isolated ? "it is outside of the sandbox" : NetworkLock::remove(name);
    if (!why.empty())
      context.notes.push_back(fmt::format("the network is not unlocked ({}): if it still is, {}",
                                          printable(why), NetworkLock::command_to_remove(name)));
  }
}

}  // namespace

void let_connections_go(const RestoreContext& context) {
  const RestorePlan& plan = context.plan;
  unlock_network(context);
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
