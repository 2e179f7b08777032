#include "core/resource/socket.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/resource/inet_restore.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

const SocketFamily* family_of(int domain) {
  const auto families = socket_families();
  const auto found = std::ranges::find(families, domain, &SocketFamily::domain);
  return found == families.end() ? nullptr : *found;
}

const SocketFamily* family_of(const pb::Descriptor& descriptor) {
  return family_of(descriptor.socket().domain());
}

bool matches(const OpenDescriptor& open) {
  return S_ISSOCK(open.status.st_mode) && !open.is_name_only();
}

// That there is none is told, too (sk_get_filter(), net/core/filter.c).
bool has_told_filter(const pb::Socket& socket) {
  return std::ranges::any_of(socket.options(), [](const pb::SocketOption& option) {
    return option.level() == SOL_SOCKET && option.name() == SO_ATTACH_FILTER;
  });
}

void capture(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::Socket& record = *out.mutable_socket();
  const Fd socket = duplicate_descriptor(open.process.a_task(), open.number);
  if (!socket.valid()) {
    record.set_why_incomplete("pidfd_getfd(2) is refused: " + errno_text(errno));
    context.lacks(open.process.pid, {}, open.target, record.why_incomplete());
    return;
  }
  const SocketDescription description = describe_socket(socket);
  record.set_domain(description.domain);
  record.set_type(description.type);
  record.set_protocol(description.protocol);
  record.set_local(description.local);
  record.set_remote(description.remote);
  record.set_local_address(description.local_address);
  record.set_remote_address(description.remote_address);
  record.set_state(description.state);
  record.set_receive_queue(description.receive_queue);
  record.set_send_queue(description.send_queue);
  record.set_network_namespace(network_of(open, socket).inode);
  capture_options(socket, common_socket_options(), record);
  if (!has_told_filter(record)) {
    record.set_why_incomplete("its filter is a program of bpf(2), which the kernel does not show");
    context.lacks(open.process.pid, {}, open.target, record.why_incomplete());
  }
  if (const SocketFamily* family = family_of(description.domain))
    family->capture(context, open, socket, out);
}

// ---- Restoring ----------------------------------------------------------------------------------

std::string name_of_domain(int domain) {
  static const std::map<int, const char*> kNames{
      {AF_VSOCK, "AF_VSOCK"}, {AF_ALG, "AF_ALG"},     {AF_XDP, "AF_XDP"},
      {AF_KEY, "AF_KEY"},     {AF_CAN, "AF_CAN"},     {AF_BLUETOOTH, "AF_BLUETOOTH"},
      {AF_KCM, "AF_KCM"},     {AF_TIPC, "AF_TIPC"},   {AF_RDS, "AF_RDS"},
      {AF_SMC, "AF_SMC"},     {AF_PPPOX, "AF_PPPOX"}, {AF_QIPCRTR, "AF_QIPCRTR"}};
  const auto known = kNames.find(domain);
  return known == kNames.end() ? fmt::format("domain {}", domain) : known->second;
}

std::string obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const pb::Socket& socket = descriptor.socket();
  if (!socket.why_incomplete().empty())
    return "it is not in the image: " + printable(socket.why_incomplete());
  const SocketFamily* family = family_of(descriptor);
  return family ? family->obstacle(snapshot, descriptor)
                : fmt::format("sockets of {} cannot be restored", name_of_domain(socket.domain()));
}

Fd open_socket(OpeningContext& context, const pb::Descriptor& descriptor) {
  return family_of(descriptor)->open(context, descriptor);
}

}  // namespace

// Without CAP_NET_ADMIN, that of the process.
NetworkOfSocket network_of(const OpenDescriptor& open, const Fd& socket) {
  static const ino_t ours = [] {
    struct stat status {};
    return ::stat("/proc/thread-self/ns/net", &status) == 0 ? status.st_ino : 0;
  }();
  struct stat theirs {};
  NetworkOfSocket network{Fd(::ioctl(socket.get(), SIOCGSKNS))};
  if (!network.space.valid()) network.space = open.process.task_proc.open("ns/net", O_RDONLY);
  if (!network.space.valid() || ::fstat(network.space.get(), &theirs) != 0)
    throw_errno("cannot tell the network namespace");
  network.inode = theirs.st_ino;
  if (theirs.st_ino == ours) network.space.reset();
  return network;
}

namespace {

// Of IP, those of the other version, too: a socket of IPv6 may speak IPv4.
std::vector<int> levels_of(const pb::Socket& socket) {
  std::vector<int> levels{SOL_SOCKET};
  if (socket.domain() == AF_NETLINK) levels.push_back(SOL_NETLINK);
  if (socket.domain() == AF_PACKET) levels.push_back(SOL_PACKET);
  if (!is_inet(socket)) return levels;
  levels.push_back(IPPROTO_IP);
  if (socket.domain() == AF_INET6) levels.push_back(IPPROTO_IPV6);
  levels.push_back(socket.protocol());
  levels.push_back(socket.type() == SOCK_STREAM  ? IPPROTO_TCP
                   : socket.type() == SOCK_DGRAM ? IPPROTO_UDP
                                                 : IPPROTO_RAW);
  return levels;
}

}  // namespace

void capture_options(const Fd& socket, std::span<const SocketOption> table, pb::Socket& record) {
  for (SocketOptionValue& value : read_socket_options(socket, table, levels_of(record))) {
    pb::SocketOption& option = *record.add_options();
    option.set_level(value.level);
    option.set_name(value.name);
    option.set_value(std::move(value.value));
  }
}

void restore_options(OpeningContext& context, const Fd& socket, std::span<const SocketOption> table,
                     const pb::Descriptor& descriptor) {
  std::vector<SocketOptionValue> values;
  for (const pb::SocketOption& option : descriptor.socket().options())
    values.push_back({option.level(), option.name(), option.value()});
  for (const std::string& failure : set_socket_options(socket, values, table))
    context.notes.push_back(
        fmt::format("{} has not its option {}", printable(descriptor.target()), failure));
}

void finish_sockets(OpeningContext& context, const RestorePlan& plan, std::span<const Fd> files) {
  for (const SocketFamily* family : socket_families())
    if (family->finish) family->finish(context, plan, files);
}

bool is_socket_from_outside(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const SocketFamily* family = family_of(descriptor);
  return !family || family->is_from_outside(snapshot, descriptor);
}

const DescriptorResource kSocket{"socket", matches, capture};
const DescriptorRestorer kSocketRestorer{pb::Descriptor::kSocket, obstacle, open_socket};

}  // namespace snapgdb
