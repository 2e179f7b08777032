#include "cli/descriptor_text.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <map>

#include "core/base/strings.h"

namespace snapgdb::cli {
namespace {

std::string file_text(const pb::Descriptor& d) {
  return fmt::format("at {} of {}{}", d.position(), d.size(),
                     d.file().unlinked() ? ", unlinked" : "");
}

std::string pipe_text(const pb::Descriptor& d) {
  return fmt::format("{}, {} of {} queued", d.pipe().fifo() ? "FIFO" : "pipe", d.pipe().queued(),
                     d.pipe().capacity());
}

std::string domain_text(const pb::Socket& socket) {
  static const std::map<int, const char*> kFamilies{
      {AF_UNIX, "unix"}, {AF_NETLINK, "netlink"}, {AF_PACKET, "packet"}, {AF_VSOCK, "vsock"}};
  static const std::map<int, const char*> kProtocols{
      {IPPROTO_TCP, "tcp"}, {IPPROTO_UDP, "udp"}, {IPPROTO_ICMP, "icmp"}, {IPPROTO_ICMPV6, "icmp"}};
  static const std::map<int, const char*> kTypes{{SOCK_STREAM, "stream"},
                                                 {SOCK_DGRAM, "dgram"},
                                                 {SOCK_SEQPACKET, "seqpacket"},
                                                 {SOCK_RAW, "raw"}};
  const auto name = [](const auto& names, int key) {
    const auto found = names.find(key);
    return found == names.end() ? std::to_string(key) : std::string(found->second);
  };
  if (socket.domain() != AF_INET && socket.domain() != AF_INET6)
    return name(kFamilies, socket.domain()) + " " + name(kTypes, socket.type());
  return name(kProtocols, socket.protocol()) + (socket.domain() == AF_INET6 ? "6" : "");
}

std::string socket_text(const pb::Descriptor& d) {
  const pb::Socket& socket = d.socket();
  std::string text = domain_text(socket);
  if (!socket.local().empty()) text += " " + printable(socket.local());
  if (!socket.remote().empty()) text += " -> " + printable(socket.remote());
  if (!socket.state().empty()) text += " " + printable(socket.state());
  if (socket.peer_inode()) text += fmt::format(", peer {}", socket.peer_inode());
  if (socket.receive_queue() || socket.send_queue())
    text += fmt::format(", {} received, {} to send", socket.receive_queue(), socket.send_queue());
  if (!socket.why_incomplete().empty()) text += ", " + printable(socket.why_incomplete());
  return text;
}

std::string eventfd_text(const pb::Descriptor& d) {
  return fmt::format("count {}{}", d.eventfd().count(),
                     d.eventfd().semaphore() ? ", semaphore" : "");
}

std::string timerfd_text(const pb::Descriptor& d) {
  return fmt::format("clock {}, due in {}, every {}, {} ticks", d.timerfd().clock(),
                     human_duration(d.timerfd().value_ns()),
                     human_duration(d.timerfd().interval_ns()), d.timerfd().ticks());
}

std::string signalfd_text(const pb::Descriptor& d) {
  return fmt::format("signals {:#x}", d.signalfd().mask());
}

std::string epoll_text(const pb::Descriptor& d) {
  std::string text = "watches";
  for (const auto& target : d.epoll().targets()) text += fmt::format(" {}", target.fd());
  return text;
}

std::string inotify_text(const pb::Descriptor& d) {
  std::string text = "watches inodes";
  for (const auto& watch : d.inotify().watches()) text += fmt::format(" {}", watch.inode());
  return text;
}

std::string memfd_text(const pb::Descriptor& d) {
  return fmt::format("{} at {} of {}, seals {:#x}", printable(d.memfd().name()), d.position(),
                     d.size(), d.memfd().seals());
}

std::string device_text(const pb::Descriptor& d) {
  return fmt::format("{} {}:{}", d.device_node().terminal() ? "terminal" : "device",
                     d.device_node().major(), d.device_node().minor());
}

std::string pidfd_text(const pb::Descriptor& d) {
  return fmt::format("process {}", d.pidfd().pid());
}

struct Kind {
  const char* name;
  std::string (*text)(const pb::Descriptor&);
};

const Kind& kind_of(const pb::Descriptor& descriptor) {
  static const std::map<pb::Descriptor::KindCase, Kind> kKinds{
      {pb::Descriptor::kFile, {"file", file_text}},
      {pb::Descriptor::kDirectory, {"directory", [](const auto&) { return std::string(); }}},
      {pb::Descriptor::kPipe, {"pipe", pipe_text}},
      {pb::Descriptor::kSocket, {"socket", socket_text}},
      {pb::Descriptor::kEventfd, {"eventfd", eventfd_text}},
      {pb::Descriptor::kTimerfd, {"timerfd", timerfd_text}},
      {pb::Descriptor::kSignalfd, {"signalfd", signalfd_text}},
      {pb::Descriptor::kEpoll, {"epoll", epoll_text}},
      {pb::Descriptor::kInotify, {"inotify", inotify_text}},
      {pb::Descriptor::kMemfd, {"memfd", memfd_text}},
      {pb::Descriptor::kDeviceNode, {"device", device_text}},
      {pb::Descriptor::kPidfd, {"pidfd", pidfd_text}},
  };
  static const Kind kOther{"other", [](const auto&) { return std::string(); }};
  const auto found = kKinds.find(descriptor.kind_case());
  return found == kKinds.end() ? kOther : found->second;
}

}  // namespace

std::string descriptor_kind(const pb::Descriptor& descriptor) {
  return kind_of(descriptor).name;
}

std::string access_text(const pb::Descriptor& descriptor) {
  static constexpr const char* kModes[] = {"r", "w", "rw", "none"};
  const uint32_t flags = descriptor.flags();
  std::string text = flags & O_PATH ? "path" : kModes[flags & O_ACCMODE];
  if (flags & O_APPEND) text += ",append";
  if (flags & O_NONBLOCK) text += ",nonblock";
  if (descriptor.close_on_exec()) text += ",cloexec";
  return text;
}

std::string descriptor_text(const pb::Descriptor& descriptor) {
  return kind_of(descriptor).text(descriptor);
}

}  // namespace snapgdb::cli
