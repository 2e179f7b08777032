#include "core/linux/namespaces.h"

#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include <cerrno>
#include <utility>

#include "core/base/error.h"
#include "core/linux/helper_process.h"

namespace snapgdb {

bool enter_namespace(const Fd& one, int kind) {
  if (::setns(one.get(), kind) == 0) return true;
  const int error = errno;
  const Fd owner = owner_of(one);
  if (owner.valid() && ::setns(owner.get(), CLONE_NEWUSER) == 0 && ::setns(one.get(), kind) == 0)
    return true;
  errno = error;
  return false;
}

void in_namespace(const Fd& one, std::string_view name, const std::function<void()>& work) {
  if (!one.valid()) throw_errno("cannot open the {} namespace of the tree", name);
  in_helper_process(
      [&] {
        if (!enter_namespace(one, namespace_flag(name)))
          throw_errno("cannot enter the {} namespace of the tree", name);
        work();
      },
      HelperDescriptors::kOurs);
}

int namespace_flag(std::string_view kind) {
  constexpr int kNewTime = 0x80;  // CLONE_NEWTIME
  constexpr std::pair<std::string_view, int> kFlags[] = {
      {"user", CLONE_NEWUSER}, {"pid", CLONE_NEWPID},      {"mnt", CLONE_NEWNS},
      {"net", CLONE_NEWNET},   {"ipc", CLONE_NEWIPC},      {"uts", CLONE_NEWUTS},
      {"time", kNewTime},      {"cgroup", CLONE_NEWCGROUP}};
  for (const auto& [name, flag] : kFlags)
    if (name == kind) return flag;
  return 0;
}

Fd owner_of(const Fd& one) {
  return Fd(::ioctl(one.get(), NS_GET_USERNS));
}

Fd parent_of(const Fd& one) {
  return Fd(::ioctl(one.get(), NS_GET_PARENT));
}

uint64_t inode_of(const Fd& one) {
  struct stat status {};
  return one.valid() && ::fstat(one.get(), &status) == 0 ? status.st_ino : 0;
}

HostNames host_names() {
  utsname names{};
  if (::uname(&names) != 0) throw_errno("cannot ask for the name of the host");
  return {names.nodename, names.domainname};
}

}  // namespace snapgdb
