#include "core/linux/mounting.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include "core/base/error.h"
#include "core/base/strings.h"

namespace snapgdb {

void mount_at(const std::string& target, const char* type, uint64_t flags,
              const std::string& options) {
  if (::mount(type, target.c_str(), type, flags, options.c_str()) != 0)
    throw_errno("cannot mount {} at {}", type, printable(target));
}

void make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) != 0 && errno != EEXIST)
    throw_errno("cannot make {}", printable(path));
}

void imitate_attributes(const struct stat& of, const std::string& path) {
  [[maybe_unused]] const bool known = ::chown(path.c_str(), of.st_uid, of.st_gid) == 0;
  if (::chmod(path.c_str(), of.st_mode & 07777) != 0)
    throw_errno("cannot set the mode of {}", printable(path));
}

void make_unchanging(const std::string& path) {
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY;
  if (::mount_setattr(AT_FDCWD, path.c_str(), AT_RECURSIVE, &attributes, sizeof attributes) != 0)
    throw_errno("cannot protect {}", printable(path));
}

}  // namespace snapgdb
