#include "core/linux/helper_process.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include <exception>

#include "core/base/error.h"
#include "core/linux/child.h"

namespace snapgdb {
namespace {

struct Work {
  const std::function<void()>& work;
  std::exception_ptr failure;
};

int perform(void* argument) {
  Work& work = *static_cast<Work*>(argument);
  try {
    work.work();
  } catch (...) {
    work.failure = std::current_exception();
  }
  return 0;
}

}  // namespace

void in_helper_process(const std::function<void()>& work, HelperDescriptors descriptors) {
  constexpr size_t kStack = size_t{1} << 20;
  void* stack = ::mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) throw_errno("cannot make a stack");
  Work what{work, nullptr};
  // ^C is for us; it would end the child as well.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, &before);
  const int shared = descriptors == HelperDescriptors::kOurs ? CLONE_FILES : 0;
  const bool was_dumpable = ::prctl(PR_GET_DUMPABLE) == 1;
  const pid_t child = ::clone(perform, static_cast<char*>(stack) + kStack,
                              CLONE_VM | CLONE_VFORK | SIGCHLD | shared, &what);
  const int error = errno;
  if (child > 0) wait_for(child);
  if (was_dumpable)
    ::prctl(PR_SET_DUMPABLE, 1);  // which is the memory's, and lost in user namespaces
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::munmap(stack, kStack);
  if (child < 0) throw SystemError("cannot start a process", error);
  if (what.failure) std::rethrow_exception(what.failure);
}

}  // namespace snapgdb
