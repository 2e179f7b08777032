// Sleeping, and waiting for signals and children.

#include <errno.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "blocking_family.h"

namespace target {
namespace {

using enum AfterStop;

pid_t child_of_wait4, child_of_waitid;

sigset_t only(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  return set;
}

sigset_t all_but(int signal) {
  sigset_t set;
  sigfillset(&set);
  sigdelset(&set, signal);
  return set;
}

const BlockingCall kTimed[] = {
    {"nanosleep",
     SYS_nanosleep,
     kGoesOn,
     {},
     [](uint64_t ns) {
       return with_limit(ns, [](timespec* t) { return syscall(SYS_nanosleep, t, nullptr); });
     }},
    {"sleep relative",
     SYS_clock_nanosleep,
     kGoesOn,
     {},
     [](uint64_t ns) {
       return with_limit(ns, [](timespec* t) {
         return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, t, nullptr);
       });
     }},
    {"sleep absolute",
     SYS_clock_nanosleep,
     kGoesOn,
     {},
     [](uint64_t ns) {
       return until(CLOCK_MONOTONIC, ns, [](const timespec* t) {
         return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, t, nullptr);
       });
     }},
    {"sigtimedwait",
     SYS_rt_sigtimedwait,
     kFails,
     {-1, EAGAIN},
     [](uint64_t ns) {
       return with_limit(ns, [](timespec* t) {
         const sigset_t set = only(SIGUSR2);
         return static_cast<long>(sigtimedwait(&set, nullptr, t));
       });
     }},
};

long wait_in_wait4(uint64_t) {
  int status = 0;
  const pid_t reaped = waitpid(child_of_wait4, &status, 0);
  return reaped == child_of_wait4 ? status : -1;
}

long wait_in_waitid(uint64_t) {
  siginfo_t info{};
  const int result = waitid(P_PID, child_of_waitid, &info, WEXITED);
  return result || info.si_code != CLD_EXITED ? -1 : info.si_status;
}

// Signals are blocked in all threads: the one that waits must let its own in.
long wait_in_pause(uint64_t) {
  const sigset_t usr1 = only(SIGUSR1);
  pthread_sigmask(SIG_UNBLOCK, &usr1, nullptr);
  return syscall(SYS_pause);
}

void signal_until_gone(const Thread& thread) {
  for (; thread.alive(); sleep_ms(1)) thread.signal(SIGUSR1);
}

const BlockingCall kEndless[] = {
    {"sigsuspend",
     SYS_rt_sigsuspend,
     kGoesOn,
     {-1, EINTR},
     [](uint64_t) {
       const sigset_t mask = all_but(SIGUSR1);
       return static_cast<long>(sigsuspend(&mask));
     },
     signal_until_gone},
    {"pause", SYS_pause, kGoesOn, {-1, EINTR}, wait_in_pause, signal_until_gone},
    {"sigwaitinfo",
     SYS_rt_sigtimedwait,
     kFails,
     {SIGUSR2},
     [](uint64_t) {
       const sigset_t set = only(SIGUSR2);
       return static_cast<long>(sigwaitinfo(&set, nullptr));
     },
     [](const Thread& thread) { thread.signal(SIGUSR2); }},
    {"wait4",
     SYS_wait4,
     kGoesOn,
     {7 << 8},
     wait_in_wait4,
     [](const Thread&) { kill(child_of_wait4, SIGUSR1); }},
    {"waitid",
     SYS_waitid,
     kGoesOn,
     {7},
     wait_in_waitid,
     [](const Thread&) { kill(child_of_waitid, SIGUSR1); }},
};

// A child that exits with 7 when it is told to.
pid_t start_child() {
  const pid_t parent = getpid(), child = setup("fork", fork());
  if (child) return child;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  struct sigaction action {};
  action.sa_handler = [](int) { _exit(7); };
  sigaction(SIGUSR1, &action, nullptr);
  const sigset_t mask = all_but(SIGUSR1);
  if (getppid() == parent) sigsuspend(&mask);
  _exit(98);  // nothing but the signal may end the wait
}

void prepare() {
  child_of_wait4 = start_child();
  child_of_waitid = start_child();
  struct sigaction action {};
  action.sa_handler = [](int) {};
  setup("sigaction", sigaction(SIGUSR1, &action, nullptr));
}

}  // namespace

const BlockingFamily kSignalCalls{kTimed, kEndless, prepare};

}  // namespace target
