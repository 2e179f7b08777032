// AF_PACKET, packet(7).

#include <linux/if_packet.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/inet_options.h"
#include "core/resource/inet_restore.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

#ifndef SOL_PACKET
constexpr int SOL_PACKET = 263;
#endif

// struct packet_mreq with room for longer addresses, as the kernel takes it (packet(7)).
struct LongMembership {
  int interface;
  uint16_t type, length;
  uint8_t address[32];  // MAX_ADDR_LEN
};

void capture_memberships(CaptureContext& context, const OpenDescriptor& open, const Fd& socket,
                         pb::Socket& record) {
  for (const PacketMembership& membership : ask_kernel_if_possible(
           context, open, socket, context.packet_memberships, packet_memberships, "memberships")) {
    LongMembership out{membership.interface,
                       membership.type,
                       static_cast<uint16_t>(membership.address.size()),
                       {}};
    std::memcpy(out.address, membership.address.data(),
                std::min(membership.address.size(), sizeof out.address));
    for (uint32_t i = 0; i < membership.times; ++i) record.add_memberships(&out, sizeof out);
  }
}

// A sandbox has no device but its loopback device.
void join_again(OpeningContext& context, const Fd& socket, const pb::Descriptor& descriptor) {
  for (const std::string& membership : descriptor.socket().memberships()) {
    LongMembership in{};
    std::memcpy(&in, membership.data(), std::min(membership.size(), sizeof in));
    if (context.sandbox) in.interface = 1;
    if (::setsockopt(socket.get(), SOL_PACKET, PACKET_ADD_MEMBERSHIP, &in, sizeof in) != 0)
      context.notes.push_back(fmt::format("{} does not listen to what it had joined: {}",
                                          printable(descriptor.target()), errno_text(errno)));
  }
}

void capture(CaptureContext& context, const OpenDescriptor& open, const Fd& socket,
             pb::Descriptor& out) {
  pb::Socket& record = *out.mutable_socket();
  capture_options(socket, network_options(), record);
  // A group and how it is shared; 0 if there is none.
  int fanout = 0;
  socklen_t size = sizeof fanout;
  if (::getsockopt(socket.get(), SOL_PACKET, PACKET_FANOUT, &fanout, &size) == 0 && fanout) {
    pb::SocketOption& option = *record.add_options();
    option.set_level(SOL_PACKET), option.set_name(PACKET_FANOUT);
    option.set_value(&fanout, sizeof fanout);
  }
  capture_memberships(context, open, socket, record);
  uint32_t memory[SK_MEMINFO_VARS]{};
  size = sizeof memory;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_MEMINFO, memory, &size) == 0 &&
      memory[SK_MEMINFO_RMEM_ALLOC] > 0)
    context.lacks(open.process.pid, {}, "queue of " + open.target,
                  "the kernel does not show what waits in a packet socket");
}

// A ring is memory of the socket's that is mapped.
bool has_ring(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Vma& vma : process.mappings())
      if (vma.inode() == descriptor.inode() && vma.name() == descriptor.target()) return true;
  return false;
}

std::string obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  return has_ring(snapshot, descriptor) ? "its ring of packets cannot be restored" : "";
}

// Those of the first kind (SOCK_PACKET, packet(7)) are bound by the name of an interface.
void listen_again(OpeningContext& context, const Fd& socket, const pb::Descriptor& descriptor) {
  const pb::Socket& record = descriptor.socket();
  const std::string& bytes = record.local_address();
  sockaddr_ll address{};
  std::memcpy(&address, bytes.data(), std::min(bytes.size(), sizeof address));
  const bool by_name = record.type() == SOCK_PACKET;
  const bool is_bound = by_name ? bytes.size() > sizeof(sa_family_t) && bytes[sizeof(sa_family_t)]
                                : address.sll_protocol || address.sll_ifindex;
  const auto size = static_cast<socklen_t>(by_name ? bytes.size() : sizeof address);
  if (!is_bound || ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), size) == 0)
    return;
  const std::string where = by_name ? printable(bytes.substr(sizeof(sa_family_t)).c_str())
                                    : std::to_string(address.sll_ifindex);
  if (!context.sandbox) throw_errno("cannot listen on interface {}", where);
  context.notes.push_back(fmt::format("{} does not listen on interface {}: {}",
                                      printable(descriptor.target()), where, errno_text(errno)));
}

Fd open_socket(OpeningContext& context, const pb::Descriptor& descriptor) {
  const pb::Socket& record = descriptor.socket();
  // It listens as soon as it has a protocol, and with an address, to one interface only.
  Fd socket = make_socket(context, descriptor);
  listen_again(context, socket, descriptor);
  if (const int fanout = number_option(record, SOL_PACKET, PACKET_FANOUT);
      fanout && ::setsockopt(socket.get(), SOL_PACKET, PACKET_FANOUT, &fanout, sizeof fanout) != 0)
    context.notes.push_back(fmt::format("{} does not share its packets: {}",
                                        printable(descriptor.target()), errno_text(errno)));
  join_again(context, socket, descriptor);
  return socket;
}

bool is_from_outside(const Snapshot&, const pb::Descriptor&) {
  return false;
}

}  // namespace

const SocketFamily kPacketSockets{AF_PACKET,   capture, obstacle,
                                  open_socket, nullptr, is_from_outside};

}  // namespace snapgdb
