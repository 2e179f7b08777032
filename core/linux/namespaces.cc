#include "core/linux/namespaces.h"

#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>
#include <exception>

#include "core/base/error.h"

namespace snapgdb {
namespace {

struct Visit {
  const Fd& one;
  int kind;
  const std::function<void()>& work;
  int error = 0;
  std::exception_ptr failure = nullptr;
};

int visit(void* argument) {
  Visit& visit = *static_cast<Visit*>(argument);
  if (!enter_namespace(visit.one, visit.kind)) {
    visit.error = errno;
    return 0;
  }
  try {
    visit.work();
  } catch (...) {
    visit.failure = std::current_exception();
  }
  return 0;
}

}  // namespace

bool enter_namespace(const Fd& one, int kind) {
  if (::setns(one.get(), kind) == 0) return true;
  const int error = errno;
  const Fd owner = owner_of(one);
  if (owner.valid() && ::setns(owner.get(), CLONE_NEWUSER) == 0 && ::setns(one.get(), kind) == 0)
    return true;
  errno = error;
  return false;
}

// As vfork(2) makes one.
void in_namespace(const Fd& one, std::string_view name, const std::function<void()>& work) {
  if (!one.valid()) throw_errno("cannot open the {} namespace of the tree", name);
  constexpr size_t kStack = size_t{1} << 20;
  void* stack = ::mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) throw_errno("cannot make a stack");
  Visit what{one, namespace_flag(name), work};
  const pid_t child = ::clone(visit, static_cast<char*>(stack) + kStack,
                              CLONE_VM | CLONE_FILES | CLONE_VFORK | SIGCHLD, &what);
  const int error = errno;
  if (child > 0) ::waitpid(child, nullptr, __WALL);
  ::munmap(stack, kStack);
  if (child < 0) throw SystemError("cannot start a process", error);
  if (what.error)
    throw SystemError(fmt::format("cannot enter the {} namespace of the tree", name), what.error);
  if (what.failure) std::rethrow_exception(what.failure);
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
