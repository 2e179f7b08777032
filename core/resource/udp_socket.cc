// UDP, UDP-Lite, raw and ping sockets: udp(7), udplite(7), raw(7), icmp(7).

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/resource/inet_restore.h"

namespace snapgdb {
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

}  // namespace

Fd open_datagram(OpeningContext& context, const pb::Descriptor& descriptor) {
  Fd socket = make_socket(context, descriptor);
  bind_again(context, socket, descriptor);
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
}

}  // namespace snapgdb
