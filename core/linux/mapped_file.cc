#include "core/linux/mapped_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/linux/device_number.h"

namespace snapgdb {
namespace {

bool is_regular_inode(const Fd& fd, uint64_t inode) {
  struct stat status;
  return fd.valid() && ::fstat(fd.get(), &status) == 0 && S_ISREG(status.st_mode) &&
         status.st_ino == inode;
}

// A descriptor of the process that has the object open.
Fd open_through_descriptor(const ProcDirectory& proc, const ProcMapping& mapping) {
  const dev_t device = make_device(mapping.device_major, mapping.device_minor);
  for (const std::string& number : proc.list("fd")) {
    struct stat status;
    const std::string name = "fd/" + number;
    if (::fstatat(proc.fd(), name.c_str(), &status, 0) == 0 && S_ISREG(status.st_mode) &&
        status.st_dev == device && status.st_ino == mapping.inode)
      return proc.open(name, O_RDONLY);
  }
  return Fd();
}

}  // namespace

Fd open_mapped_file(const ProcDirectory& proc, const ProcMapping& mapping) {
  // map_files names the very inode, deleted or not, but needs CAP_CHECKPOINT_RESTORE. It is missing
  // below task/.
  Fd fd = proc.open(fmt::format("map_files/{:x}-{:x}", mapping.start, mapping.end), O_RDONLY);
  if (is_regular_inode(fd, mapping.inode)) return fd;
  if (fd = proc.open("exe", O_RDONLY); is_regular_inode(fd, mapping.inode)) return fd;
  if (fd = open_through_descriptor(proc, mapping); fd.valid()) return fd;
  if (mapping.name.empty() || mapping.name[0] != '/') return Fd();
  // O_NONBLOCK: the name may belong to a FIFO by now.
  fd = proc.open("root" + mapping.name, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  return is_regular_inode(fd, mapping.inode) ? std::move(fd) : Fd();
}

uint64_t file_size(const Fd& fd) {
  struct stat status;
  if (::fstat(fd.get(), &status) != 0) throw_errno("cannot tell the size of a mapped file");
  return static_cast<uint64_t>(status.st_size);
}

bool is_memory_file(const Fd& fd) {
  struct statfs status;
  return ::fstatfs(fd.get(), &status) == 0 &&
         (status.f_type == TMPFS_MAGIC || status.f_type == HUGETLBFS_MAGIC);
}

uint64_t next_data(const Fd& fd, uint64_t offset, uint64_t end) {
  const off_t at = ::lseek(fd.get(), static_cast<off_t>(offset), SEEK_DATA);
  if (at < 0) return errno == ENXIO ? end : offset;  // ENXIO: no data from here on
  return std::clamp(static_cast<uint64_t>(at), offset, end);
}

uint64_t next_hole(const Fd& fd, uint64_t offset, uint64_t end) {
  const off_t at = ::lseek(fd.get(), static_cast<off_t>(offset), SEEK_HOLE);
  if (at < 0) return end;
  // The end of the file counts as a hole and may lie within a page, which is data as a whole.
  constexpr uint64_t kPage = 4096;
  return std::clamp((static_cast<uint64_t>(at) + kPage - 1) & ~(kPage - 1), offset, end);
}

}  // namespace snapgdb
