// UDP, UDP-Lite, raw and ping sockets: udp(7), udplite(7), raw(7), icmp(7).

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/multicast.h"
#include "core/resource/inet_restore.h"

namespace snapgdb {

// ---- Capture ------------------------------------------------------------------------------------

void capture_datagram_state(CaptureContext& context, const OpenDescriptor& open, const Fd& socket,
                            pb::Socket& record) {
  if (is_udp(record))
    record.set_shutdown(record.shutdown() |
                        ask_kernel_if_possible(context, open, socket, context.udp_shutdowns,
                                               udp_shutdowns, "what is shut down"));
  // As the process sees them: a socket of another network may be in some that are not there.
  for (std::string& membership :
       multicast_memberships(socket, multicast_groups(open.process.task_proc)))
    record.add_memberships(std::move(membership));
}

namespace {

// What one look tells, until there is nothing more.
void read_queue(const Fd& socket, pb::Socket& record) {
  std::string bytes(size_t{1} << 16, '\0');
  while (true) {
    sockaddr_storage sender{};
    iovec piece{bytes.data(), bytes.size()};
    msghdr message{};
    message.msg_name = &sender, message.msg_namelen = sizeof sender;
    message.msg_iov = &piece, message.msg_iovlen = 1;
    const ssize_t n = ::recvmsg(socket.get(), &message, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) throw_errno("cannot look at a datagram");
    pb::QueuedMessage& queued = *record.add_queue();
    queued.set_content(bytes.data(), static_cast<size_t>(n));
    queued.set_sender(&sender, std::min<size_t>(message.msg_namelen, sizeof sender));
  }
}

// What cannot be read without taking it away, or not at all.
void say_what_is_lost(CaptureContext& context, int32_t pid, const pb::Descriptor& descriptor,
                      bool has_error) {
  const pb::Socket& record = descriptor.socket();
  const std::string& name = descriptor.target();
  if (has_error)
    context.lacks({pid}, {}, "error of " + name,
                  "it was not fetched yet, and cannot be read without taking it away");
  if (is_udp(record) && record.send_queue())
    context.lacks({pid}, {}, "unsent datagram of " + name,
                  "the kernel does not show what is held back (UDP_CORK, MSG_MORE)");
  if (!is_udp(record) && record.receive_queue())
    context.lacks({pid}, {}, "queue of " + name,
                  "only the first packet that waits in such a socket can be read without taking it "
                  "away");
}

}  // namespace

void read_datagrams(CaptureContext& context, int32_t pid, pb::Descriptor& descriptor,
                    const Fd& socket, OptionGuard& guard) {
  pb::Socket& record = *descriptor.mutable_socket();
  pollfd look{socket.get(), POLLIN, 0};
  ::poll(&look, 1, 0);
  say_what_is_lost(context, pid, descriptor, look.revents & POLLERR);
  if (!is_udp(record) || !(look.revents & POLLIN) || record.shutdown() & 1) return;
  const OptionGuard::Change undo = peek_offset_of(socket);
  try {
    if (look.revents & POLLERR) throw Error("", "an error waits to be read before it");
    const OptionGuard::Scope scope(guard, &undo, 1);
    // Then each look shows what comes behind the last one.
    const int from_start = 0;
    if (::setsockopt(socket.get(), SOL_SOCKET, SO_PEEK_OFF, &from_start, sizeof from_start) != 0)
      throw_errno("cannot look at datagrams one after the other");
    read_queue(socket, record);
  } catch (const Error& error) {
    context.lacks({pid}, {}, "queue of " + descriptor.target(), error.what());
  }
}

// ---- Restoring ----------------------------------------------------------------------------------

namespace {

// Then it may be connected before it gets them.
bool comes_from_peer(const pb::Socket& record) {
  return std::ranges::all_of(record.queue(), [&](const pb::QueuedMessage& message) {
    return NetworkAddress::of(message.sender()) == NetworkAddress::of(record.remote_address());
  });
}

// Of the socket, where `from` would reach it.
NetworkAddress reached_from(const NetworkAddress& local, const NetworkAddress& from) {
  if (!local.is_any()) return local;
  NetworkAddress to;
  if (from.is_ipv4()) to.bytes[10] = to.bytes[11] = 0xff, to.bytes[12] = 127;
  to.bytes[15] = 1;
  to.port = local.port;
  return to;
}

void queue_again(const OpenSocket& open) {
  const pb::Socket& record = open.descriptor->socket();
  const auto local = NetworkAddress::of(record.local_address());
  for (const pb::QueuedMessage& message : record.queue()) {
    const auto from = NetworkAddress::of(message.sender());
    if (!from || !local) throw Error("", "their sender is not known");
    inject_datagram(*from, reached_from(*local, *from), message.content(),
                    record.protocol() == IPPROTO_UDPLITE);
  }
  constexpr int kPatience = 1000;  // ms
  pollfd arrived{open.socket->get(), POLLIN, 0};
  if (record.queue_size() && ::poll(&arrived, 1, kPatience) != 1)
    throw Error("", "they do not arrive");
}

// A sandbox has no device but its loopback device.
void join_groups(OpeningContext& context, const Fd& socket, const pb::Descriptor& descriptor) {
  for (const std::string& membership : descriptor.socket().memberships())
    if (!join_again(socket, membership, context.sandbox ? 1 : 0))
      context.notes.push_back(fmt::format("{} is not in a multicast group that it was in: {}",
                                          printable(descriptor.target()), errno_text(errno)));
}

}  // namespace

Fd open_datagram(OpeningContext& context, const pb::Descriptor& descriptor) {
  Fd socket = make_socket(context, descriptor);
  if (shares_port(context.snapshot, descriptor)) set_port_shared(socket, 1);
  bind_again(context, socket, descriptor);
  join_groups(context, socket, descriptor);
  if (comes_from_peer(descriptor.socket())) connect_again(context, socket, descriptor);
  return socket;
}

void finish_datagram(OpeningContext& context, const OpenSocket& open) {
  const pb::Socket& record = open.descriptor->socket();
  try {
    queue_again(open);
  } catch (const Error& error) {
    context.notes.push_back(fmt::format("{} datagrams that wait in {} are lost: {}",
                                        record.queue_size(), printable(open.descriptor->target()),
                                        error.why()));
  }
  if (!comes_from_peer(record)) connect_again(context, *open.socket, *open.descriptor);
  shut_down_again(*open.socket, record.shutdown());
  if (shares_port(context.snapshot, *open.descriptor))
    set_port_shared(*open.socket, number_option(record, SOL_SOCKET, SO_REUSEPORT));
}

}  // namespace snapgdb
