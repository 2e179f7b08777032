#include "core/linux/namespaces.h"

#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>

#include <cerrno>

namespace snapgdb {

bool enter_namespace(const Fd& one, int kind) {
  if (::setns(one.get(), kind) == 0) return true;
  const int error = errno;
  const Fd owner(::ioctl(one.get(), NS_GET_USERNS));
  if (owner.valid() && ::setns(owner.get(), CLONE_NEWUSER) == 0 && ::setns(one.get(), kind) == 0)
    return true;
  errno = error;
  return false;
}

}  // namespace snapgdb
