// AF_NETLINK, netlink(7).

#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>

#include <cstring>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/inet_options.h"
#include "core/resource/inet_restore.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

#ifndef SOL_NETLINK
constexpr int SOL_NETLINK = 270;
#endif

sockaddr_nl address_in(const std::string& bytes) {
  sockaddr_nl address{};
  std::memcpy(&address, bytes.data(), std::min(bytes.size(), sizeof address));
  return address;
}

// Whether anything waits in it; the kernel shows only the first of it.
bool has_queue(const Fd& socket) {
  uint32_t memory[SK_MEMINFO_VARS]{};
  socklen_t size = sizeof memory;
  return ::getsockopt(socket.get(), SOL_SOCKET, SO_MEMINFO, memory, &size) == 0 &&
         memory[SK_MEMINFO_RMEM_ALLOC] > 0;
}

void capture(CaptureContext& context, const OpenDescriptor& open, const Fd& socket,
             pb::Descriptor& out) {
  pb::Socket& record = *out.mutable_socket();
  capture_options(socket, network_options(), record);
  // A bit each, more than an address has (Linux 4.2).
  std::string groups(1024, '\0');
  auto size = static_cast<socklen_t>(groups.size());
  if (::getsockopt(socket.get(), SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, groups.data(), &size) == 0)
    record.add_memberships(groups.data(), std::min<size_t>(size, groups.size()));
  if (has_queue(socket))
    context.lacks(open.process.pid, {}, "queue of " + open.target,
                  "the kernel does not show what waits in a netlink socket");
}

std::string obstacle(const Snapshot&, const pb::Descriptor&) {
  return "";
}

// To somebody else than the kernel, which is whom all are connected to at first.
void connect_again(OpeningContext& context, const pb::Descriptor& descriptor, const Fd& socket) {
  const sockaddr_nl peer = address_in(descriptor.socket().remote_address());
  if (!peer.nl_pid && !peer.nl_groups) return;
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&peer), sizeof peer) != 0)
    context.notes.push_back(fmt::format("{} is not connected to {}, groups {:#x}, again: {}",
                                        printable(descriptor.target()), peer.nl_pid, peer.nl_groups,
                                        errno_text(errno)));
}

Fd open_socket(OpeningContext& context, const pb::Descriptor& descriptor) {
  const pb::Socket& record = descriptor.socket();
  Fd socket = make_socket(context, descriptor);
  sockaddr_nl address = address_in(record.local_address());
  const auto bind = [&] {
    return ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  };
  if (address.nl_pid && !bind()) {
    context.notes.push_back(fmt::format("{} has another port than {}: {}",
                                        printable(descriptor.target()), address.nl_pid,
                                        errno_text(errno)));
    address.nl_pid = 0;
    if (!bind()) throw_errno("cannot bind a netlink socket");
  }
  for (const std::string& groups : record.memberships())
    for (size_t bit = 0; bit < groups.size() * 8; ++bit) {
      const int group = static_cast<int>(bit) + 1;
      if (!(groups[bit / 8] >> bit % 8 & 1) || (bit < 32 && address.nl_groups >> bit & 1)) continue;
      if (::setsockopt(socket.get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) !=
          0)
        context.notes.push_back(fmt::format("{} is not told of group {}: {}",
                                            printable(descriptor.target()), group,
                                            errno_text(errno)));
    }
  connect_again(context, descriptor, socket);
  return socket;
}

bool is_from_outside(const Snapshot&, const pb::Descriptor&) {
  return false;
}

}  // namespace

const SocketFamily kNetlinkSockets{AF_NETLINK,  capture, obstacle,
                                   open_socket, nullptr, is_from_outside};

}  // namespace snapgdb
