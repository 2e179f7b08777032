#include "gui/models/descriptor_text.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <QStringList>

#include <array>

#include "gui/models/text.h"

namespace snapgdb::gui {
namespace {

struct Name {
  int number;
  const char* name;
};

template <size_t N>
QString name_of(int number, const std::array<Name, N>& names, const char* what) {
  for (const Name& known : names)
    if (known.number == number) return QLatin1String(known.name);
  return QStringLiteral("%1 %2").arg(QLatin1String(what)).arg(number);
}

QString list(std::initializer_list<QString> parts) {
  QStringList present;
  for (const QString& part : parts)
    if (!part.isEmpty()) present += part;
  return present.join(QStringLiteral(", "));
}

QString bytes_queued(uint64_t bytes, const char* what) {
  return bytes ? size(bytes) + QLatin1Char(' ') + QLatin1String(what) : QString();
}

QString clock_name(int clock) {
  static constexpr std::array kClocks{Name{0, "CLOCK_REALTIME"}, Name{1, "CLOCK_MONOTONIC"},
                                      Name{7, "CLOCK_BOOTTIME"}, Name{8, "CLOCK_REALTIME_ALARM"},
                                      Name{9, "CLOCK_BOOTTIME_ALARM"}};
  return name_of(clock, kClocks, "clock");
}

// ---- The kinds ----

QString file_kind(const pb::Descriptor& d) {
  return d.file().unlinked() ? QStringLiteral("file, unlinked") : QStringLiteral("file");
}

QString file_details(const pb::Descriptor& d) {
  return size(d.size());
}

QString pipe_kind(const pb::Descriptor& d) {
  const QString what = d.pipe().fifo() ? QStringLiteral("fifo") : QStringLiteral("pipe");
  switch (d.flags() & O_ACCMODE) {
    case O_RDONLY:
      return what + QStringLiteral(", read end");
    case O_WRONLY:
      return what + QStringLiteral(", write end");
    default:
      return what;
  }
}

QString pipe_details(const pb::Descriptor& d) {
  return d.pipe().queued() ? bytes_queued(d.pipe().queued(), "queued") : QStringLiteral("empty");
}

QString socket_kind(const pb::Descriptor& d) {
  static constexpr std::array kDomains{Name{AF_UNIX, "unix"}, Name{AF_NETLINK, "netlink"},
                                       Name{AF_PACKET, "packet"}, Name{AF_VSOCK, "vsock"}};
  static constexpr std::array kTypes{Name{SOCK_STREAM, "stream"}, Name{SOCK_DGRAM, "datagram"},
                                     Name{SOCK_SEQPACKET, "seqpacket"}, Name{SOCK_RAW, "raw"}};
  const pb::Socket& socket = d.socket();
  if (socket.domain() == AF_INET || socket.domain() == AF_INET6) {
    const QString version = QLatin1String(socket.domain() == AF_INET6 ? "6" : "");
    if (socket.type() == SOCK_STREAM) return QStringLiteral("TCP%1 socket").arg(version);
    if (socket.type() == SOCK_DGRAM) return QStringLiteral("UDP%1 socket").arg(version);
    return QStringLiteral("IP%1 %2 socket").arg(version, name_of(socket.type(), kTypes, "type"));
  }
  if (socket.domain() == 0 && socket.type() == 0) return QStringLiteral("socket");
  return QStringLiteral("%1 %2 socket")
      .arg(name_of(socket.domain(), kDomains, "family"), name_of(socket.type(), kTypes, "type"));
}

QString socket_details(const pb::Descriptor& d) {
  const pb::Socket& socket = d.socket();
  QString ends = text(socket.local());
  if (!socket.remote().empty()) ends += QStringLiteral(" to ") + text(socket.remote());
  return list({ends.trimmed(), text(socket.state()),
               bytes_queued(socket.receive_queue(), "to be read"),
               bytes_queued(socket.send_queue(), "to be sent"),
               socket.why_incomplete().empty()
                   ? QString()
                   : QStringLiteral("incomplete: ") + text(socket.why_incomplete())});
}

QString eventfd_details(const pb::Descriptor& d) {
  return list({QStringLiteral("count %1").arg(d.eventfd().count()),
               d.eventfd().semaphore() ? QStringLiteral("semaphore") : QString()});
}

QString timerfd_details(const pb::Descriptor& d) {
  const pb::TimerFd& timer = d.timerfd();
  return list(
      {clock_name(timer.clock()),
       timer.value_ns() ? QStringLiteral("due in ") + duration(timer.value_ns())
                        : QStringLiteral("not set"),
       timer.interval_ns() ? QStringLiteral("every ") + duration(timer.interval_ns()) : QString(),
       timer.ticks() ? counted(timer.ticks(), "expiry", "expiries") + " unread" : QString()});
}

QString signalfd_details(const pb::Descriptor& d) {
  return signal_set(d.signalfd().mask());
}

QString epoll_details(const pb::Descriptor& d) {
  if (d.epoll().targets().empty()) return QStringLiteral("watches nothing");
  QStringList numbers;
  for (const pb::Epoll::Target& target : d.epoll().targets()) {
    if (numbers.size() == 20) {
      numbers += QStringLiteral("… (%1 in all)").arg(d.epoll().targets_size());
      break;
    }
    numbers += QString::number(target.fd());
  }
  return QStringLiteral("watches fd ") + numbers.join(QStringLiteral(", "));
}

QString inotify_details(const pb::Descriptor& d) {
  return counted(static_cast<uint64_t>(d.inotify().watches_size()), "watch", "watches");
}

QString memfd_details(const pb::Descriptor& d) {
  const BitNames seals{{F_SEAL_SEAL, "seal"},
                       {F_SEAL_SHRINK, "shrink"},
                       {F_SEAL_GROW, "grow"},
                       {F_SEAL_WRITE, "write"},
                       {F_SEAL_FUTURE_WRITE, "future-write"}};
  const QString sealed = bit_names(d.memfd().seals(), seals);
  return list({text(d.memfd().name()), size(d.size()),
               sealed.isEmpty() ? sealed : QStringLiteral("sealed against ") + sealed});
}

QString device_kind(const pb::Descriptor& d) {
  if (d.device_node().terminal()) return QStringLiteral("terminal");
  return d.device_node().block() ? QStringLiteral("block device")
                                 : QStringLiteral("character device");
}

QString device_details(const pb::Descriptor& d) {
  return QStringLiteral("device %1:%2").arg(d.device_node().major()).arg(d.device_node().minor());
}

QString pidfd_details(const pb::Descriptor& d) {
  return QStringLiteral("process %1").arg(d.pidfd().pid());
}

QString other_kind(const pb::Descriptor& d) {
  return text(d.other().what());
}
QString other_details(const pb::Descriptor& d) {
  return text(d.other().fdinfo()).replace(QStringLiteral("\\012"), QStringLiteral("; "));
}

struct Kind {
  pb::Descriptor::KindCase kind;
  const char* name;
  QString (*name_of)(const pb::Descriptor&);  // where the name says more; else nullptr
  QString (*details)(const pb::Descriptor&);  // nullptr: there are none
};

constexpr std::array kKinds{
    Kind{pb::Descriptor::kFile, "file", file_kind, file_details},
    Kind{pb::Descriptor::kDirectory, "directory", nullptr, nullptr},
    Kind{pb::Descriptor::kPipe, "pipe", pipe_kind, pipe_details},
    Kind{pb::Descriptor::kSocket, "socket", socket_kind, socket_details},
    Kind{pb::Descriptor::kEventfd, "eventfd", nullptr, eventfd_details},
    Kind{pb::Descriptor::kTimerfd, "timerfd", nullptr, timerfd_details},
    Kind{pb::Descriptor::kSignalfd, "signalfd", nullptr, signalfd_details},
    Kind{pb::Descriptor::kEpoll, "epoll", nullptr, epoll_details},
    Kind{pb::Descriptor::kInotify, "inotify", nullptr, inotify_details},
    Kind{pb::Descriptor::kMemfd, "memfd", nullptr, memfd_details},
    Kind{pb::Descriptor::kDeviceNode, "device", device_kind, device_details},
    Kind{pb::Descriptor::kPidfd, "pidfd", nullptr, pidfd_details},
    Kind{pb::Descriptor::kOther, "other", other_kind, other_details},
};

const Kind* kind_of(const pb::Descriptor& descriptor) {
  for (const Kind& kind : kKinds)
    if (kind.kind == descriptor.kind_case()) return &kind;
  return nullptr;
}

}  // namespace

QString descriptor_kind(const pb::Descriptor& descriptor) {
  const Kind* kind = kind_of(descriptor);
  if (!kind) return QStringLiteral("unknown");
  return kind->name_of ? kind->name_of(descriptor) : QString::fromLatin1(kind->name);
}

QString descriptor_details(const pb::Descriptor& descriptor) {
  const Kind* kind = kind_of(descriptor);
  return kind && kind->details ? kind->details(descriptor) : QString();
}

QString descriptor_flags(const pb::Descriptor& descriptor) {
  // O_SYNC and O_TMPFILE contain other flags, so they come first. O_LARGEFILE is the kernel's bit
  // 0100000, which user space on x86-64 sees as 0 and fdinfo shows on almost every file: left out.
  static const BitNames kFlags{
      {O_SYNC, "sync"},         {O_TMPFILE, "tmpfile"},     {O_APPEND, "append"},
      {O_NONBLOCK, "nonblock"}, {O_DSYNC, "dsync"},         {O_ASYNC, "async"},
      {O_DIRECT, "direct"},     {O_DIRECTORY, "directory"}, {O_NOFOLLOW, "nofollow"},
      {O_NOATIME, "noatime"},   {O_PATH, "path"},
  };
  constexpr uint64_t kLargeFile = 0100000;
  static constexpr std::array kModes{"read", "write", "read-write", "no access"};
  const uint64_t flags = descriptor.flags();
  const QString rest =
      bit_names(flags & ~uint64_t{O_ACCMODE} & ~kLargeFile & ~uint64_t{O_CLOEXEC}, kFlags);
  QString words = QLatin1String(kModes[flags & O_ACCMODE]);
  if (!rest.isEmpty()) words += QLatin1Char(' ') + rest;
  if (descriptor.close_on_exec()) words += QStringLiteral(" cloexec");
  return words;
}

}  // namespace snapgdb::gui
