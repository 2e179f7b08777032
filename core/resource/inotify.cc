#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/resource/resources.h"
#include "core/resource/watched_path.h"

namespace snapgdb {
namespace {

constexpr std::string_view kPrefix = "inotify ";

// The link has no brackets, unlike those of the other kinds.
bool matches(const OpenDescriptor& open) {
  return open.target == "anon_inode:inotify";
}

// ---- Capture ------------------------------------------------------------------------------------

// "inotify wd:1 ino:3e8 sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1
// f_handle:…", all in hexadecimal (fs/notify/fdinfo.c).
void capture(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::Inotify& inotify = *out.mutable_inotify();
  for (const std::string_view line : split(open.info_text, '\n')) {
    if (!line.starts_with(kPrefix)) continue;
    const auto pairs = key_value_pairs(line.substr(kPrefix.size()));
    pb::Inotify::Watch& watch = *inotify.add_watches();
    watch.set_number(static_cast<int32_t>(pair_number(pairs, "wd", 16)));
    watch.set_inode(pair_number(pairs, "ino", 16));
    watch.set_device(pair_number(pairs, "sdev", 16));
    watch.set_mask(static_cast<uint32_t>(pair_number(pairs, "mask", 16)));
    const WatchedFile watched = watched_file(pairs);
    watch.set_file_handle(watched.handle);
    watch.set_path(path_of(open.process.task_proc, watched));
  }
  inotify.set_unread(bytes_of_events(context, open));
}

// ---- Restoring ----------------------------------------------------------------------------------

std::string obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  for (const pb::Inotify::Watch& watch : descriptor.inotify().watches())
    if (const std::string why =
            why_not_watched(snapshot, {descriptor, watch.path(), watch.inode(), watch.device()});
        !why.empty())
      return fmt::format("watch {}: {}", watch.number(), why);
  return "";
}

Fd open_inotify(OpeningContext&, const pb::Descriptor& descriptor) {
  Fd fd(::inotify_init1(IN_CLOEXEC | (descriptor.flags() & O_NONBLOCK ? IN_NONBLOCK : 0)));
  if (!fd.valid()) throw_errno("cannot make an inotify");
  return fd;
}

constexpr unsigned long kSetNext = _IOW('I', 0, int32_t);  // INOTIFY_IOC_SETNEXTWD

// All but the last `kept` bytes.
void drop_events(const Fd& fd, int kept) {
  std::vector<char> events(64 * 1024);
  for (int queued = 0; ::ioctl(fd.get(), FIONREAD, &queued) == 0 && queued > kept;)
    if (::read(fd.get(), events.data(),
               std::min(events.size(), static_cast<size_t>(queued - kept))) < 0)
      throw_errno("cannot read events of an inotify");
}

// So that the last event is that some were lost: the kernel says so when there is no room for more.
// Then there is none for the end of our own watch either. `next`: the number of the watch that the
// program adds next. Returns why it could not be done; "" if it was.
std::string queue_overflow(const Fd& fd, int next) {
  constexpr uint64_t kMost = 1 << 20;
  constexpr int kSize = sizeof(inotify_event);
  uint64_t room = 0;
  std::ifstream("/proc/sys/fs/inotify/max_queued_events") >> room;
  if (room == 0 || room > kMost) return fmt::format("its queue has room for {} events", room);
  constexpr const char* kFile = "/proc/version";  // which nobody else watches
  const int watch = ::inotify_add_watch(fd.get(), kFile, IN_OPEN | IN_CLOSE);
  if (watch < 0) return errno_text(errno);
  for (uint64_t events = 0; events <= room; events += 2)
    if (!Fd(::open(kFile, O_RDONLY | O_CLOEXEC)).valid()) return errno_text(errno);
  ::inotify_rm_watch(fd.get(), watch);
  ::ioctl(fd.get(), kSetNext, next);
  drop_events(fd, kSize);
  return "";
}

// That of an earlier watch is not given again: so there is a way to any number also where the
// kernel cannot be told (INOTIFY_IOC_SETNEXTWD, Linux 4.14).
int add_as(const Fd& fd, int wanted, const std::string& path, uint32_t mask) {
  ::ioctl(fd.get(), kSetNext, wanted);
  int number = ::inotify_add_watch(fd.get(), path.c_str(), mask);
  while (number >= 0 && number < wanted) {
    ::inotify_rm_watch(fd.get(), number);
    number = ::inotify_add_watch(fd.get(), path.c_str(), mask);
  }
  return number;
}

// Through the namespace of the tree. When all files are open: that, too, would be told of.
void watch(RestoreContext& context, const pb::Descriptor& descriptor, const Fd& fd) {
  std::vector<const pb::Inotify::Watch*> watches;
  for (const pb::Inotify::Watch& one : descriptor.inotify().watches()) watches.push_back(&one);
  std::ranges::sort(watches, {}, [](const pb::Inotify::Watch* one) { return one->number(); });
  for (const pb::Inotify::Watch* one : watches) {
    constexpr uint32_t kKept = IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT;
    const int number =
        add_as(fd, one->number(),
               path_to_watch(context, {descriptor, one->path(), one->inode(), one->device()}),
               (one->mask() & kKept) | (one->path().empty() ? 0 : uint32_t{IN_DONT_FOLLOW}));
    if (number != one->number())
      context.notes.push_back(fmt::format(
          "{}: {} is not watched any more: {}", called(descriptor), printable(one->path()),
          number < 0 ? errno_text(errno) : "another watch has its number"));
  }
  drop_events(fd, 0);  // of the ways there
  if (!descriptor.inotify().unread()) return;
  const int next = watches.empty() ? 1 : watches.back()->number() + 1;
  const std::string why = queue_overflow(fd, next);
  context.notes.push_back(
      fmt::format("{}: {} bytes of events that nobody had read are lost{}", called(descriptor),
                  descriptor.inotify().unread(),
                  why.empty() ? ", and the program is told that some are (IN_Q_OVERFLOW)"
                              : fmt::format("; the program cannot be told so: {}", why)));
}

}  // namespace

const DescriptorRestorer kInotifyRestorer{
    .kind = pb::Descriptor::kInotify, .obstacle = obstacle, .open = open_inotify, .start = watch};
const DescriptorResource kInotify{"inotify", matches, capture};

}  // namespace snapgdb
