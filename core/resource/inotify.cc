#include <dirent.h>
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <set>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/task.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

constexpr std::string_view kPrefix = "inotify ";

// The link has no brackets, unlike those of the other kinds.
bool matches(const OpenDescriptor& open) {
  return open.target == "anon_inode:inotify";
}

// ---- The path of what is watched, of which the kernel tells an inode and a handle ---------------

struct Wanted {
  dev_t device = 0;
  ino_t inode = 0;
  int handle_type = 0;
  std::string handle;
};

// As the kernel has it inside: 12 bits, 20 bits (MKDEV, include/linux/kdev_t.h).
dev_t device_of(uint64_t sdev) {
  return makedev(sdev >> 20, sdev & 0xfffff);
}

bool is_it(const ProcDirectory& proc, const std::string& path, const Wanted& wanted) {
  struct stat status {};
  return ::fstatat(proc.fd(), ("root" + path).c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
         status.st_ino == wanted.inode && status.st_dev == wanted.device;
}

// Takes CAP_DAC_READ_SEARCH.
std::string path_by_handle(const ProcDirectory& proc, const Fd& mount, const Wanted& wanted) {
  std::vector<char> memory(sizeof(file_handle) + wanted.handle.size());
  auto& handle = *reinterpret_cast<file_handle*>(memory.data());
  handle.handle_bytes = static_cast<unsigned>(wanted.handle.size());
  handle.handle_type = wanted.handle_type;
  std::memcpy(handle.f_handle, wanted.handle.data(), wanted.handle.size());
  const Fd file(::open_by_handle_at(mount.get(), &handle, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!file.valid()) return "";
  const std::string path =
      ProcDirectory::of(Pid{::getpid()}).link(fmt::format("fd/{}", file.get()));
  return is_it(proc, path, wanted) ? path : "";
}

std::string path_by_handle(const ProcDirectory& proc, const Wanted& wanted) {
  const std::string mounts = proc.read_if_allowed("mountinfo").value_or("");
  const std::string device = fmt::format("{}:{}", ::major(wanted.device), ::minor(wanted.device));
  for (const std::string_view line : split(mounts, '\n')) {
    const auto fields = split_blank(line);  // proc_pid_mountinfo(5)
    if (fields.size() < 5 || fields[2] != device) continue;
    const Fd mount = proc.open("root" + std::string(fields[4]), O_RDONLY | O_NONBLOCK);
    const std::string path = mount.valid() ? path_by_handle(proc, mount, wanted) : "";
    if (!path.empty()) return path;
  }
  return "";
}

// Where a program is likely to have looked: around its working directory, its open files, and
// where it keeps what is temporary.
std::deque<std::string> likely_directories(const ProcDirectory& proc) {
  std::deque<std::string> directories;
  const auto add = [&](std::string path) {
    if (path.starts_with('/')) directories.push_back(std::move(path));
  };
  add(proc.link_if_allowed("cwd").value_or(""));
  const std::string environment = proc.read_if_allowed("environ").value_or("");
  for (const std::string_view name : {"TMPDIR=", "HOME="})
    for (const std::string_view variable : split(environment, '\0'))
      if (variable.starts_with(name)) add(std::string(variable.substr(name.size())));
  for (const std::string& number : proc.list("fd")) {
    const std::string path = proc.link_if_allowed("fd/" + number).value_or("");
    add(path);
    add(path.substr(0, path.rfind('/')));
  }
  for (size_t i = 0; i < directories.size(); ++i)
    if (const size_t slash = directories[i].rfind('/'); slash != std::string::npos && slash > 0)
      if (std::string above = directories[i].substr(0, slash);
          std::ranges::find(directories, above) == directories.end())
        directories.push_back(std::move(above));
  directories.emplace_back("/");
  return directories;
}

// Breadth first, and not for long: the tree is stopped.
std::string path_by_search(const ProcDirectory& proc, const Wanted& wanted) {
  std::deque<std::string> to_visit = likely_directories(proc);
  for (const std::string& path : to_visit)
    if (is_it(proc, path, wanted)) return path;
  std::set<std::string> visited;
  for (int entries = 20'000; entries > 0 && !to_visit.empty(); to_visit.pop_front()) {
    const std::string path = to_visit.front() == "/" ? "" : to_visit.front();
    if (!visited.insert(path).second) continue;
    Fd fd = proc.open("root" + path + "/", O_RDONLY | O_DIRECTORY | O_NONBLOCK);
    const std::unique_ptr<DIR, int (*)(DIR*)> directory(::fdopendir(fd.get()), ::closedir);
    if (!directory) continue;
    fd.release();  // closedir(3) closes it
    while (const dirent* entry = ::readdir(directory.get())) {
      const std::string_view name = entry->d_name;
      if (name == "." || name == ".." || --entries <= 0) continue;
      const std::string inside = path + "/" + std::string(name);
      if (entry->d_ino == wanted.inode && is_it(proc, inside, wanted)) return inside;
      if (entry->d_type == DT_DIR) to_visit.push_back(inside);
    }
  }
  return "";
}

// ---- Capture ------------------------------------------------------------------------------------

// They could only be read by taking them away.
void look_for_events(CaptureContext& context, const OpenDescriptor& open) {
  const Fd same = duplicate_descriptor(open.process.a_task(), open.number);
  int queued = 0;
  const std::string what = fmt::format("events of descriptor {}, {}", open.number, open.target);
  if (!same.valid() || ::ioctl(same.get(), FIONREAD, &queued) != 0)
    context.lacks(open.process.pid, {}, what, "pidfd_getfd(2) is refused");
  else if (queued > 0)
    context.lacks(open.process.pid, {}, what,
                  fmt::format("{} bytes are queued: whoever reads them takes them away", queued));
}

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
    if (const auto handle = pairs.find("f_handle"); handle != pairs.end())
      watch.set_file_handle(from_hex(handle->second).value_or(""));
    const Wanted wanted{device_of(watch.device()), watch.inode(),
                        static_cast<int>(pair_number(pairs, "fhandle-type", 16)),
                        watch.file_handle()};
    const ProcDirectory& proc = open.process.task_proc;
    watch.set_path(path_by_handle(proc, wanted));
    if (watch.path().empty()) watch.set_path(path_by_search(proc, wanted));
  }
  look_for_events(context, open);
}

// ---- Restoring ----------------------------------------------------------------------------------

// A descriptor of the same file, where that has no name any more.
const pb::Descriptor* nameless_file_of(const Snapshot& snapshot, const pb::Inotify::Watch& watch) {
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Descriptor& descriptor : process.descriptors())
      if (descriptor.nameless() && descriptor.inode() == watch.inode() &&
          descriptor.device() == device_of(watch.device()))
        return &descriptor;
  return nullptr;
}

std::string obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  for (const pb::Inotify::Watch& watch : descriptor.inotify().watches()) {
    struct stat status {};
    if (watch.path().empty() && !nameless_file_of(snapshot, watch))
      return fmt::format("watch {}: no path of inode {} was found", watch.number(), watch.inode());
    if (!watch.path().empty() && ::lstat(watch.path().c_str(), &status) != 0)
      return fmt::format("watch {}, {}: {}", watch.number(), printable(watch.path()),
                         errno_text(errno));
  }
  return "";
}

Fd open_inotify(OpeningContext&, const pb::Descriptor& descriptor) {
  Fd fd(::inotify_init1(IN_CLOEXEC | (descriptor.flags() & O_NONBLOCK ? IN_NONBLOCK : 0)));
  if (!fd.valid()) throw_errno("cannot make an inotify");
  return fd;
}

// That of an earlier watch is not given again: so there is a way to any number also where the
// kernel cannot be told (INOTIFY_IOC_SETNEXTWD, Linux 4.14).
int add_as(const Fd& fd, int wanted, const std::string& path, uint32_t mask) {
  constexpr unsigned long kSetNext = _IOW('I', 0, int32_t);
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
    const pb::Descriptor* nameless =
        one->path().empty() ? nameless_file_of(context.snapshot, *one) : nullptr;
    const std::string path =
        nameless
            ? fmt::format("/proc/{}/fd/{}", context.keeper.value, context.plan.file_of(*nameless))
            : fmt::format("/proc/{}/root{}", context.keeper.value, one->path());
    const int number = add_as(fd, one->number(), path,
                              (one->mask() & kKept) | (nameless ? 0 : uint32_t{IN_DONT_FOLLOW}));
    if (number != one->number())
      context.notes.push_back(fmt::format(
          "descriptor {}: {} is not watched any more: {}", descriptor.number(),
          printable(one->path()), number < 0 ? errno_text(errno) : "another watch has its number"));
  }
  // Of the ways there.
  std::vector<char> events(64 * 1024);
  for (int queued = 0; ::ioctl(fd.get(), FIONREAD, &queued) == 0 && queued > 0;)
    if (::read(fd.get(), events.data(), events.size()) < 0)
      throw_errno("cannot read events of an inotify");
}

}  // namespace

const DescriptorRestorer kInotifyRestorer{
    .kind = pb::Descriptor::kInotify, .obstacle = obstacle, .open = open_inotify, .start = watch};
const DescriptorResource kInotify{"inotify", matches, capture};

}  // namespace snapgdb
