#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <span>

#include "core/base/strings.h"
#include "core/inspect/words.h"

namespace snapgdb {
namespace {

struct Name {
  int number;
  std::string_view name;
};

std::string name_of(int number, std::span<const Name> names, std::string_view what) {
  for (const Name& known : names)
    if (known.number == number) return std::string(known.name);
  return fmt::format("{} {}", what, number);
}

std::string list(std::initializer_list<std::string> parts) {
  std::string joined;
  for (const std::string& part : parts) {
    if (!joined.empty() && !part.empty()) joined += ", ";
    joined += part;
  }
  return joined;
}

std::string bytes_queued(uint64_t bytes, std::string_view what) {
  return bytes ? fmt::format("{} {}", human_size(bytes), what) : "";
}

std::string clock_name(int clock) {
  static constexpr Name kClocks[] = {{0, "CLOCK_REALTIME"},
                                     {1, "CLOCK_MONOTONIC"},
                                     {7, "CLOCK_BOOTTIME"},
                                     {8, "CLOCK_REALTIME_ALARM"},
                                     {9, "CLOCK_BOOTTIME_ALARM"}};
  return name_of(clock, kClocks, "clock");
}

// ---- The kinds ----

std::string file_kind(const pb::Descriptor& d) {
  return d.file().unlinked() ? "file, unlinked" : "file";
}

std::string file_details(const pb::Descriptor& d) {
  return human_size(d.size());
}

std::string pipe_kind(const pb::Descriptor& d) {
  const std::string what = d.pipe().fifo() ? "fifo" : "pipe";
  switch (d.flags() & O_ACCMODE) {
    case O_RDONLY:
      return what + ", read end";
    case O_WRONLY:
      return what + ", write end";
    default:
      return what;
  }
}

std::string pipe_details(const pb::Descriptor& d) {
  return d.pipe().queued() ? bytes_queued(d.pipe().queued(), "queued") : "empty";
}

std::string socket_kind(const pb::Descriptor& d) {
  static constexpr Name kDomains[] = {
      {AF_UNIX, "unix"}, {AF_NETLINK, "netlink"}, {AF_PACKET, "packet"}, {AF_VSOCK, "vsock"}};
  static constexpr Name kTypes[] = {{SOCK_STREAM, "stream"},
                                    {SOCK_DGRAM, "datagram"},
                                    {SOCK_SEQPACKET, "seqpacket"},
                                    {SOCK_RAW, "raw"}};
  const pb::Socket& socket = d.socket();
  const std::string type = name_of(socket.type(), kTypes, "type");
  if (socket.domain() == AF_INET || socket.domain() == AF_INET6) {
    const char* version = socket.domain() == AF_INET6 ? "6" : "";
    if (socket.type() == SOCK_STREAM) return fmt::format("TCP{} socket", version);
    if (socket.type() == SOCK_DGRAM) return fmt::format("UDP{} socket", version);
    return fmt::format("IP{} {} socket", version, type);
  }
  if (socket.domain() == 0 && socket.type() == 0) return "socket";
  return fmt::format("{} {} socket", name_of(socket.domain(), kDomains, "family"), type);
}

std::string socket_details(const pb::Descriptor& d) {
  const pb::Socket& socket = d.socket();
  static constexpr const char* kShutDown[] = {"", "receives nothing more", "sends nothing more",
                                              "shut down"};
  size_t carried = 0;
  for (const pb::QueuedMessage& message : socket.queue())
    carried += static_cast<size_t>(message.descriptions_size());
  std::string ends = printable(socket.local());
  if (!socket.remote().empty())
    ends += fmt::format("{}to {}", ends.empty() ? "" : " ", printable(socket.remote()));
  return list(
      {ends, printable(socket.state()), bytes_queued(socket.receive_queue(), "to be read"),
       bytes_queued(socket.send_queue(), "to be sent"),
       carried ? counted(carried, "descriptor", "descriptors") + " in messages" : "",
       socket.waiting_size() ? fmt::format("{} to be accepted", socket.waiting_size()) : "",
       kShutDown[socket.shutdown() & 3], socket.file().gone() ? "its file is gone" : "",
       socket.why_incomplete().empty() ? "" : "incomplete: " + printable(socket.why_incomplete())});
}

std::string eventfd_details(const pb::Descriptor& d) {
  return list(
      {fmt::format("count {}", d.eventfd().count()), d.eventfd().semaphore() ? "semaphore" : ""});
}

std::string timerfd_details(const pb::Descriptor& d) {
  const pb::TimerFd& timer = d.timerfd();
  return list({clock_name(timer.clock()),
               timer.value_ns() ? "due in " + human_duration(timer.value_ns()) : "not set",
               timer.interval_ns() ? "every " + human_duration(timer.interval_ns()) : "",
               timer.ticks() ? counted(timer.ticks(), "expiry", "expiries") + " unread" : ""});
}

std::string signalfd_details(const pb::Descriptor& d) {
  return signal_set(d.signalfd().mask());
}

std::string epoll_details(const pb::Descriptor& d) {
  constexpr int kShown = 20;
  if (d.epoll().targets().empty()) return "watches nothing";
  std::string numbers;
  for (int i = 0; i < d.epoll().targets_size() && i < kShown; ++i)
    numbers += fmt::format("{}{}", i ? ", " : "", d.epoll().targets(i).fd());
  if (d.epoll().targets_size() > kShown)
    numbers += fmt::format(", … ({} in all)", d.epoll().targets_size());
  return "watches fd " + numbers;
}

std::string inotify_details(const pb::Descriptor& d) {
  return list({counted(static_cast<uint64_t>(d.inotify().watches_size()), "watch", "watches"),
               bytes_queued(d.inotify().unread(), "of events unread")});
}

std::string fanotify_details(const pb::Descriptor& d) {
  static constexpr const char* kClasses[] = {"", "content", "before content", ""};
  const auto marks = static_cast<uint64_t>(d.fanotify().marks_size());
  return list({counted(marks, "mark", "marks"), kClasses[d.fanotify().flags() >> 2 & 3],
               bytes_queued(d.fanotify().unread(), "of events unread")});
}

std::string memfd_details(const pb::Descriptor& d) {
  static const BitNames kSeals{{F_SEAL_SEAL, "seal"},
                               {F_SEAL_SHRINK, "shrink"},
                               {F_SEAL_GROW, "grow"},
                               {F_SEAL_WRITE, "write"},
                               {F_SEAL_FUTURE_WRITE, "future-write"}};
  const std::string sealed = bit_names(d.memfd().seals(), kSeals);
  return list({printable(d.memfd().name()), d.size() ? human_size(d.size()) : "",
               sealed.empty() ? "" : "sealed against " + sealed});
}

std::string device_kind(const pb::Descriptor& d) {
  if (d.device_node().terminal()) return "terminal";
  return d.device_node().block() ? "block device" : "character device";
}

std::string device_details(const pb::Descriptor& d) {
  const pb::Device& device = d.device_node();
  const pb::Terminal& state = device.state();
  const std::string number = fmt::format("device {}:{}", device.major(), device.minor());
  if (!device.has_state()) return list({number, device.hung_up() ? "hung up" : ""});
  return list({number, state.master() ? fmt::format("master of /dev/pts/{}", state.index()) : "",
               state.packet_mode() ? "packet mode" : "", state.locked() ? "locked" : "",
               state.exclusive() ? "exclusive" : "", state.hung_up() ? "hung up" : ""});
}

std::string pidfd_details(const pb::Descriptor& d) {
  if (d.pidfd().pid() < 0) return "a process that has ended";
  if (d.pidfd().pid() == 0) return "a process of another pid namespace";
  return fmt::format("{} {}", d.pidfd().of_thread() ? "thread" : "process", d.pidfd().pid());
}

std::string message_queue_details(const pb::Descriptor& d) {
  const pb::MessageQueueFd& queue = d.message_queue();
  return list(
      {printable(queue.name()), counted(queue.queued(), "message", "messages"),
       fmt::format("of {} of {}", queue.maximum_messages(), human_size(queue.message_size())),
       d.removed() ? "removed" : "",
       queue.notify_pid() ? fmt::format("process {} is told", queue.notify_pid()) : ""});
}

std::string io_uring_details(const pb::Descriptor& d) {
  const pb::IoUring& ring = d.io_uring();
  const auto some = [](uint32_t n, const char* what) {
    return n ? fmt::format("{} {}", n, what) : std::string();
  };
  return list(
      {fmt::format("{} and {} entries", ring.submission_entries(), ring.completion_entries()),
       some(ring.unsubmitted(), "to be submitted"), some(ring.in_flight(), "in flight"),
       some(ring.polled(), "waiting for files"), some(ring.unread(), "to be read"),
       some(ring.registered_files(), "files registered"),
       some(ring.registered_buffers(), "buffers registered"),
       ring.has_eventfd() ? "eventfd registered" : ""});
}

std::string other_kind(const pb::Descriptor& d) {
  return printable(d.other().name().empty() ? d.other().what() : d.other().name());
}

std::string other_details(const pb::Descriptor& d) {
  constexpr std::string_view kOfAll[] = {"pos:", "flags:", "mnt_id:", "ino:"};
  std::string lines;
  for (const std::string_view line : split(d.other().fdinfo(), '\n')) {
    if (std::ranges::any_of(kOfAll, [&](auto key) { return line.starts_with(key); })) continue;
    std::string text(line);
    std::ranges::replace(text, '\t', ' ');
    lines += (lines.empty() ? "" : "; ") + printable(text);
  }
  return lines;
}

struct Kind {
  pb::Descriptor::KindCase kind;
  std::string_view name;
  std::string (*name_of)(const pb::Descriptor&);  // where the name says more; else nullptr
  std::string (*details)(const pb::Descriptor&);  // nullptr: there are none
};

constexpr Kind kKinds[] = {
    {pb::Descriptor::kFile, "file", file_kind, file_details},
    {pb::Descriptor::kDirectory, "directory", nullptr, nullptr},
    {pb::Descriptor::kPipe, "pipe", pipe_kind, pipe_details},
    {pb::Descriptor::kSocket, "socket", socket_kind, socket_details},
    {pb::Descriptor::kEventfd, "eventfd", nullptr, eventfd_details},
    {pb::Descriptor::kTimerfd, "timerfd", nullptr, timerfd_details},
    {pb::Descriptor::kSignalfd, "signalfd", nullptr, signalfd_details},
    {pb::Descriptor::kEpoll, "epoll", nullptr, epoll_details},
    {pb::Descriptor::kInotify, "inotify", nullptr, inotify_details},
    {pb::Descriptor::kFanotify, "fanotify", nullptr, fanotify_details},
    {pb::Descriptor::kMemfd, "memfd", nullptr, memfd_details},
    {pb::Descriptor::kDeviceNode, "device", device_kind, device_details},
    {pb::Descriptor::kPidfd, "pidfd", nullptr, pidfd_details},
    {pb::Descriptor::kMessageQueue, "message queue", nullptr, message_queue_details},
    {pb::Descriptor::kIoUring, "io_uring", nullptr, io_uring_details},
    {pb::Descriptor::kOther, "other", other_kind, other_details},
};

const Kind* kind_of(const pb::Descriptor& descriptor) {
  for (const Kind& kind : kKinds)
    if (kind.kind == descriptor.kind_case()) return &kind;
  return nullptr;
}

}  // namespace

std::string descriptor_kind(const pb::Descriptor& descriptor) {
  const Kind* kind = kind_of(descriptor);
  if (!kind) return "unknown";
  return kind->name_of ? kind->name_of(descriptor) : std::string(kind->name);
}

std::string descriptor_details(const pb::Descriptor& descriptor) {
  const Kind* kind = kind_of(descriptor);
  return kind && kind->details ? kind->details(descriptor) : "";
}

std::string descriptor_flags(const pb::Descriptor& descriptor) {
  // O_SYNC and O_TMPFILE contain other flags, so they come first. O_LARGEFILE is the kernel's bit
  // 0100000, which user space on x86-64 sees as 0 and fdinfo shows on almost every file: left out.
  static const BitNames kFlags{
      {O_SYNC, "sync"},         {O_TMPFILE, "tmpfile"},     {O_APPEND, "append"},
      {O_NONBLOCK, "nonblock"}, {O_DSYNC, "dsync"},         {O_ASYNC, "async"},
      {O_DIRECT, "direct"},     {O_DIRECTORY, "directory"}, {O_NOFOLLOW, "nofollow"},
      {O_NOATIME, "noatime"},   {O_PATH, "path"},
  };
  constexpr uint64_t kLargeFile = 0100000;
  static constexpr const char* kModes[] = {"read", "write", "read-write", "no access"};
  const uint64_t flags = descriptor.flags();
  const std::string rest =
      bit_names(flags & ~uint64_t{O_ACCMODE} & ~kLargeFile & ~uint64_t{O_CLOEXEC}, kFlags);
  std::string words = kModes[flags & O_ACCMODE];
  if (!rest.empty()) words += " " + rest;
  if (descriptor.close_on_exec()) words += " cloexec";
  return words;
}

}  // namespace snapgdb
