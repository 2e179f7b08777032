#include "core/resource/watched_path.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <set>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/device_number.h"
#include "core/linux/mount_info.h"
#include "core/linux/task.h"
#include "core/resource/mounts.h"

namespace snapgdb {
namespace {

bool is_it(const ProcDirectory& proc, const std::string& path, const WatchedFile& wanted) {
  struct stat status {};
  return ::fstatat(proc.fd(), ("root" + path).c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
         status.st_ino == wanted.inode && status.st_dev == wanted.device;
}

// Takes CAP_DAC_READ_SEARCH.
std::string path_by_handle(const ProcDirectory& proc, const Fd& mount, const WatchedFile& wanted) {
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

std::string path_by_handle(const ProcDirectory& proc, const WatchedFile& wanted) {
  const std::string mounts = proc.read_if_allowed("mountinfo").value_or("");
  const std::string device = fmt::format("{}:{}", major_of(wanted.device), minor_of(wanted.device));
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
std::string path_by_search(const ProcDirectory& proc, const WatchedFile& wanted) {
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

// A descriptor of the same file, where that has no name any more.
const pb::Descriptor* nameless_file_of(const Snapshot& snapshot, uint64_t inode, uint64_t sdev) {
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Descriptor& descriptor : process.descriptors())
      if (descriptor.nameless() && descriptor.inode() == inode &&
          descriptor.device() == device_of(sdev))
        return &descriptor;
  return nullptr;
}

// Of several, which share it, the first.
const pb::Process* holder_of(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const pb::Process* holder = nullptr;
  for (const pb::Process& process : snapshot.processes())
    for_each_descriptor(process, [&](const pb::Descriptor& other) {
      if (!holder && other.description() == descriptor.description() && !is_zombie(process))
        holder = &process;
    });
  return holder;
}

}  // namespace

WatchedFile watched_file(const std::map<std::string_view, std::string_view>& pairs) {
  const auto handle = pairs.find("f_handle");
  return {device_of(pair_number(pairs, "sdev", 16)), pair_number(pairs, "ino", 16),
          static_cast<int>(pair_number(pairs, "fhandle-type", 16)),
          handle == pairs.end() ? "" : from_hex(handle->second).value_or("")};
}

std::string path_of(const ProcDirectory& proc, const WatchedFile& watched) {
  const std::string path = path_by_handle(proc, watched);
  return path.empty() ? path_by_search(proc, watched) : path;
}

uint32_t bytes_of_events(CaptureContext& context, const OpenDescriptor& open) {
  const Fd same = duplicate_descriptor(open.process.a_task(), open.number);
  int queued = 0;
  const std::string what = fmt::format("events of descriptor {}, {}", open.number, open.target);
  if (!same.valid() || ::ioctl(same.get(), FIONREAD, &queued) != 0) {
    context.lacks(open.process.pid, {}, what, "pidfd_getfd(2) is refused");
    return 0;
  }
  if (queued > 0)
    context.lacks(
        open.process.pid, {}, what,
        fmt::format("{} bytes of them wait, which cannot be read without taking them away",
                    queued));
  return static_cast<uint32_t>(queued);
}

std::string path_to_watch(const RestoreContext& context, const Watched& watched) {
  const pb::Process* holder = holder_of(context.snapshot, watched.by);
  if (holder && !watched.path.empty())
    return fmt::format("/proc/{}/root{}", context.seed_of(*holder).tid().value, watched.path);
  const pb::Descriptor* nameless = nameless_file_of(context.snapshot, watched.inode, watched.sdev);
  return nameless
             ? fmt::format("/proc/{}/fd/{}", context.keeper.value, context.plan.file_of(*nameless))
             : "";
}

std::string why_not_watched(const Snapshot& snapshot, const Watched& watched) {
  if (watched.path.empty())
    return nameless_file_of(snapshot, watched.inode, watched.sdev)
               ? ""
               : fmt::format("no path of inode {} was found", watched.inode);
  const pb::Process* holder = holder_of(snapshot, watched.by);
  if (!holder) return "nobody has it";
  struct stat status {};
  const std::string path = joined(holder->root_directory(), watched.path);
  if (stat_for_tree(mounts_of(snapshot, *holder), path, status, false) == 0) return "";
  return fmt::format("{}: {}", printable(path), errno_text(errno));
}

}  // namespace snapgdb
