// UDP, UDP-Lite, raw and ping sockets: udp(7), udplite(7), raw(7), icmp(7).

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/multicast.h"
#include "core/linux/task.h"
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

// So that each look shows what comes behind the last one, and what its packet told.
constexpr struct LookOption {
  int domain, level, name, value;

  bool is_of(int other) const { return domain == other || domain == AF_UNSPEC; }
} kLook[] = {
    {AF_UNSPEC, SOL_SOCKET, SO_PEEK_OFF, 0},        {AF_INET, IPPROTO_IP, IP_PKTINFO, 1},
    {AF_INET, IPPROTO_IP, IP_RECVTOS, 1},           {AF_INET, IPPROTO_IP, IP_RECVTTL, 1},
    {AF_INET6, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1},  {AF_INET6, IPPROTO_IPV6, IPV6_RECVTCLASS, 1},
    {AF_INET6, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1},
};

// What is to be put back after a look.
std::vector<OptionGuard::Change> changes_for_look(const Fd& socket, int domain) {
  std::vector<OptionGuard::Change> changes{peek_offset_of(socket)};
  for (const auto& option : kLook) {
    if (option.domain != domain) continue;
    OptionGuard::Change change{socket.get(), option.level, option.name, 0};
    socklen_t size = sizeof change.value;
    if (::getsockopt(socket.get(), option.level, option.name, &change.value, &size) == 0)
      changes.push_back(change);
  }
  return changes;
}

// Some come as an int, IP_TOS as a byte.
uint32_t number_in(const cmsghdr& header) {
  int value = 0;
  const size_t size = std::min(header.cmsg_len - CMSG_LEN(0), sizeof value);
  std::memcpy(&value, CMSG_DATA(&header), size);
  return static_cast<uint32_t>(value);
}

// ip(7), ipv6(7)
void add_told(const cmsghdr& header, pb::QueuedMessage& out) {
  const auto is = [&](int level, int type) {
    return header.cmsg_level == level && header.cmsg_type == type;
  };
  if (is(IPPROTO_IP, IP_TOS) || is(IPPROTO_IPV6, IPV6_TCLASS))
    out.set_traffic_class(number_in(header));
  if (is(IPPROTO_IP, IP_TTL) || is(IPPROTO_IPV6, IPV6_HOPLIMIT))
    out.set_hop_limit(number_in(header));
  if (is(IPPROTO_IP, IP_PKTINFO) && header.cmsg_len >= CMSG_LEN(sizeof(in_pktinfo))) {
    in_pktinfo info{};
    std::memcpy(&info, CMSG_DATA(&header), sizeof info);
    out.set_receiver(bytes_of(sockaddr_in{.sin_family = AF_INET, .sin_addr = info.ipi_addr}));
  }
  if (is(IPPROTO_IPV6, IPV6_PKTINFO) && header.cmsg_len >= CMSG_LEN(sizeof(in6_pktinfo))) {
    in6_pktinfo info{};
    std::memcpy(&info, CMSG_DATA(&header), sizeof info);
    out.set_receiver(bytes_of(sockaddr_in6{.sin6_family = AF_INET6, .sin6_addr = info.ipi6_addr}));
  }
}

// What one look tells, until there is nothing more.
void read_queue(const Fd& socket, pb::Socket& record) {
  std::string bytes(size_t{1} << 16, '\0');
  while (true) {
    sockaddr_storage sender{};
    iovec piece{bytes.data(), bytes.size()};
    msghdr message{};
    message.msg_name = &sender, message.msg_namelen = sizeof sender;
    message.msg_iov = &piece, message.msg_iovlen = 1;
    alignas(cmsghdr) char told[1024];
    message.msg_control = told, message.msg_controllen = sizeof told;
    const ssize_t n = ::recvmsg(socket.get(), &message, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) throw_errno("cannot look at a datagram");
    pb::QueuedMessage& queued = *record.add_queue();
    queued.set_content(bytes.data(), static_cast<size_t>(n));
    queued.set_sender(&sender, std::min<size_t>(message.msg_namelen, sizeof sender));
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header))
      add_told(*header, queued);
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
  const auto undo = changes_for_look(socket, record.domain());
  try {
    if (look.revents & POLLERR) throw Error("", "an error waits to be read before it");
    const OptionGuard::Scope scope(guard, undo.data(), undo.size());
    for (const auto& option : kLook)
      if (option.is_of(record.domain()) && ::setsockopt(socket.get(), option.level, option.name,
                                                        &option.value, sizeof option.value) != 0)
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

// As which it was reached, if it has that address still.
NetworkAddress receiver_of(OpeningContext& context, const pb::Socket& record,
                           const pb::QueuedMessage& message, const NetworkAddress& from) {
  const NetworkAddress local = *NetworkAddress::of(record.local_address());
  auto to = NetworkAddress::of(message.receiver());
  const bool is_one = to && local.is_any() && !to->is_any() && !to->is_multicast() &&
                      to->is_ipv4() == from.is_ipv4();
  if (!is_one || !is_here(usable_here(context, record, message.receiver())))
    return reached_from(local, from);
  to->port = local.port;
  return *to;
}

// Where others have its port, too, it has to be the one that is connected: it is chosen before
// them.
class OnlyReceiver {
 public:
  OnlyReceiver(const Fd& socket, bool is_needed) : socket_(socket), is_needed_(is_needed) {}
  ~OnlyReceiver() {
    const sockaddr nobody{.sa_family = AF_UNSPEC, .sa_data = {}};
    if (is_needed_) ::connect(socket_.get(), &nobody, sizeof nobody);
  }
  OnlyReceiver(const OnlyReceiver&) = delete;
  OnlyReceiver& operator=(const OnlyReceiver&) = delete;

  // Where it is reached from there.
  NetworkAddress reached_from(const std::string& sender, const NetworkAddress& otherwise) const {
    if (!is_needed_) return otherwise;
    if (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(sender.data()),
                  static_cast<socklen_t>(sender.size())) != 0)
      throw Error("", "others have its port, and there is no way to their sender");
    return *NetworkAddress::of(describe_socket(socket_).local_address);
  }

 private:
  const Fd& socket_;
  const bool is_needed_;
};

void queue_again(OpeningContext& context, const OpenSocket& open) {
  const pb::Socket& record = open.descriptor->socket();
  const bool is_connected = !record.remote_address().empty() && comes_from_peer(record);
  const OnlyReceiver only(*open.socket, !is_connected && record.queue_size() &&
                                            shares_port(context.snapshot, *open.descriptor));
  for (const pb::QueuedMessage& message : record.queue()) {
    const auto from = NetworkAddress::of(message.sender());
    if (!from || !NetworkAddress::of(record.local_address()))
      throw Error("", "their sender is not known");
    const NetworkAddress to =
        only.reached_from(message.sender(), receiver_of(context, record, message, *from));
    PacketMarks marks{.traffic_class = static_cast<uint8_t>(message.traffic_class())};
    if (message.hop_limit()) marks.hop_limit = static_cast<uint8_t>(message.hop_limit());
    inject_datagram(*from, to, message.content(), record.protocol() == IPPROTO_UDPLITE, marks);
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
    queue_again(context, open);
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
