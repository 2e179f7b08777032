#include "core/linux/stand_in.h"

#include <linux/securebits.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <exception>

#include "core/linux/child.h"
#include "core/linux/seed.h"

namespace snapgdb {
namespace {

struct Task {
  const StandIn& who;
  const std::function<void()>& work;
  bool is_thread;
  std::exception_ptr failure;
};

void check(long result, const char* what) {
  if (result != 0) throw NoStandIn(what, errno);
}

// System calls as they are: those of the C library are for all threads of a process.
void become(const StandIn& who) {
  if (who.root >= 0) {
    check(::fchdir(who.root), "cannot enter a root directory");
    check(::chroot("."), "cannot enter a root directory");
  }
  if (who.directory >= 0) check(::fchdir(who.directory), "cannot enter a directory");
  if (!who.user && !who.group) return;
  const uint64_t group = who.group.value_or(static_cast<uint32_t>(-1));
  const uint64_t user = who.user.value_or(static_cast<uint32_t>(-1));
  const bool is_other = user != ::geteuid() || group != ::getegid();
  if (!is_other) return;
  check(::prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP), "cannot keep capabilities");
  check(::syscall(SYS_setresgid, group, group, group), "cannot become a group");
  check(::syscall(SYS_setresuid, user, user, user), "cannot become a user");
}

// Not inlined: the caller's frame is also the one that we go on with.
[[noreturn, gnu::noinline]] void live(Task& task) {
  try {
    become(task.who);
    task.work();
  } catch (...) {
    task.failure = std::current_exception();
  }
  while (true) ::syscall(task.is_thread ? SYS_exit : SYS_exit_group, 0);
}

// As vfork(2), but with a number of choice: the kernel lets us go on when the other has ended.
// Nothing that the other writes on the stack lies above what `live` begins with.
[[gnu::noinline]] long run(CloneArguments& arguments, Task& task) {
  long pid = SYS_clone3;
  asm volatile("syscall"
               : "+a"(pid)
               : "D"(&arguments), "S"(sizeof arguments)
               : "rcx", "r11", "memory");
  if (pid == 0) live(task);
  return pid;
}

// It lets us go on a little before it is gone.
void await_end_of_thread(long tid) {
  while (::syscall(SYS_tgkill, ::getpid(), tid, 0) == 0) ::sched_yield();
}

}  // namespace

void perform_by(const StandIn& who, const std::function<void()>& work) {
  // Our own number is that of all our threads.
  const bool is_thread = who.pid > 0 && who.pid == ::getpid();
  Task task{who, work, is_thread, nullptr};
  CloneArguments arguments{.flags = CLONE_VM | CLONE_VFORK | CLONE_FILES};
  if (is_thread)
    arguments.flags |= CLONE_THREAD | CLONE_SIGHAND;
  else if (who.pid > 0)
    arguments.set_tid = reinterpret_cast<uint64_t>(&who.pid), arguments.set_tid_size = 1;
  // Another user's memory is not to be dumped, and the memory is ours, too.
  const int dumpable = ::prctl(PR_GET_DUMPABLE);
  const long pid = run(arguments, task);
  if (pid < 0)
    throw NoStandIn(fmt::format("cannot make a process with number {}", who.pid),
                    static_cast<int>(-pid));
  if (is_thread)
    await_end_of_thread(pid);
  else
    wait_for(static_cast<pid_t>(pid));
  if (dumpable == 1) ::prctl(PR_SET_DUMPABLE, 1);
  if (task.failure) std::rethrow_exception(task.failure);
}

}  // namespace snapgdb
