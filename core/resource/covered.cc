#include "core/resource/covered.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/linux/mount_info.h"
#include "core/resource/resource.h"

namespace snapgdb {
namespace {

// "/a/b/c": "/a/b/c", "/a/b", "/a", "/".
std::vector<std::string> prefixes_of(const std::string& path) {
  std::vector<std::string> prefixes;
  for (size_t end = path.size(); end != std::string::npos && end > 0;
       end = path.rfind('/', end - 1))
    prefixes.push_back(path.substr(0, end));
  prefixes.emplace_back("/");
  return prefixes;
}

// Where its file is not asked, also if it is remote.
std::optional<struct statx> look_at(int directory, const char* path) {
  struct statx status {};
  constexpr int kHow = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC;
  return ::statx(directory, path, kHow, STATX_MNT_ID, &status) == 0 ? std::optional(status)
                                                                    : std::nullopt;
}

bool is_mount_root(const std::string& path) {
  const auto status = look_at(AT_FDCWD, path.c_str());
  return status && status->stx_attributes & STATX_ATTR_MOUNT_ROOT;
}

// As it is without what is mounted below it.
Fd only_mount_at(const std::string& root) {
  return Fd(::open_tree(AT_FDCWD, root.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
}

bool is_like(const Fd& file, const pb::Descriptor& descriptor, bool same) {
  struct stat status {};
  return ::fstat(file.get(), &status) == 0 &&
         (status.st_mode & S_IFMT) == (descriptor.mode() & S_IFMT) &&
         (!same || status.st_ino == descriptor.inode());
}

}  // namespace

// The name is as we see it, or where that is impossible as the process does. It tells nothing of
// what was opened in a mount namespace that the process is not in any more.
bool is_covered(const OpenDescriptor& open) {
  if (open.deleted || !open.target.starts_with('/')) return false;
  const auto mount = static_cast<int>(open.info.number("mnt_id"));
  bool leads_elsewhere = false;
  for (const auto& [directory, path] :
       {std::pair(AT_FDCWD, open.target),
        std::pair(open.process.task_proc.fd(), "root" + open.target)}) {
    const auto status = look_at(directory, path.c_str());
    if (!status || !(status->stx_mask & STATX_MNT_ID)) continue;
    if (static_cast<int>(status->stx_mnt_id) == mount) return false;
    leads_elsewhere = true;
  }
  if (!leads_elsewhere) return false;
  const auto mounts =
      parse_mount_info(open.process.task_proc.read_if_allowed("mountinfo").value_or(""));
  return std::ranges::count(mounts, mount, &MountInfo::id) != 0;
}

// Mounts hide what is below them one over the other: each that the name passes may be the one.
Fd open_covered(const pb::Descriptor& descriptor, int flags) {
  const std::string& path = descriptor.target();
  int error = ENOENT;
  for (const bool same : {true, false}) {
    bool hides = false;  // some mount further down the name does
    for (const std::string& prefix : prefixes_of(path)) {
      if (!is_mount_root(prefix)) continue;
      if (!std::exchange(hides, true)) continue;
      const Fd mount = only_mount_at(prefix);
      const size_t begin = prefix == "/" ? 1 : prefix.size() + 1;
      Fd file(mount.valid() ? ::openat(mount.get(), path.substr(begin).c_str(), flags) : -1);
      if (file.valid() && is_like(file, descriptor, same)) return file;
      if (!file.valid()) error = errno;
    }
  }
  errno = error;
  return Fd();
}

std::string covered_obstacle(const pb::Descriptor& descriptor) {
  if (open_covered(descriptor, O_PATH | O_CLOEXEC).valid()) return "";
  return fmt::format("a mount hides it, and what is below is not reached: {}",
                     errno == EPERM ? "that takes root" : errno_text(errno));
}

}  // namespace snapgdb
