// Tasks that may not do everything: under seccomp filters of different lengths in its threads, with
// capabilities dropped behind them; in strict mode; under filters that were inherited; catching
// their own system calls. Needs root.
//
// A filter answers one system call of its own with one errno, so that its presence shows.

#include "target.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

namespace {

struct Answer {
  long call;
  uint16_t error;
};
constexpr Answer kFirst{SYS_getpgid, 77}, kSecond{SYS_getsid, 78}, kOfThread{SYS_uselib, 79},
    kLate{SYS_sysfs, 80}, kUntold{SYS_prctl, 81};

// Padded to `length` instructions.
long set_filter(const Answer& answer, unsigned flags, size_t length = 4) {
  std::vector<sock_filter> program{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(answer.call), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | uint32_t{answer.error})};
  while (program.size() + 1 < length) program.push_back(BPF_STMT(BPF_LD | BPF_IMM, 1));
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog value{static_cast<unsigned short>(program.size()), program.data()};
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &value);
}

void expect_answer(const char* who, const Answer& answer, bool filtered) {
  errno = 0;
  const long result = syscall(answer.call, 0, 0, 0);
  const bool is_filters = result < 0 && errno == answer.error;
  if (is_filters != filtered)
    target::differs("%s: system call %ld gave %ld, errno %d", who, answer.call, result, errno);
}

std::string status_of(pid_t pid, const std::string& key) {
  std::ifstream lines("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with(key + ":\t")) return line.substr(key.size() + 2);
  return "";
}

// System calls of the thread's own for these: the C library would change all threads.
void drop_rights(uid_t user) {
  target::setup("setresgid", static_cast<int>(syscall(SYS_setresgid, user, user, user)));
  target::setup("setresuid", static_cast<int>(syscall(SYS_setresuid, user, user, user)));
}

void expect_user(uid_t user) {
  uid_t ids[3] = {};
  syscall(SYS_getresuid, &ids[0], &ids[1], &ids[2]);
  for (const uid_t id : ids) target::expect_equal("a thread's user", id, user);
}

volatile sig_atomic_t caught_call = -1;
char selector = SYSCALL_DISPATCH_FILTER_ALLOW;

// While the selector says so, nothing but the call itself may be tried: sigreturn(2) would be
// caught, too.
void catch_own_calls() {
  struct sigaction action {};
  action.sa_flags = SA_SIGINFO;
  action.sa_sigaction = [](int, siginfo_t* info, void*) {
    selector = SYSCALL_DISPATCH_FILTER_ALLOW;
    caught_call = info->si_syscall;
  };
  target::setup("sigaction", sigaction(SIGSYS, &action, nullptr));
  sigset_t own;  // blocked, it would be the end
  sigemptyset(&own);
  sigaddset(&own, SIGSYS);
  pthread_sigmask(SIG_UNBLOCK, &own, nullptr);
  target::setup("dispatch",
                prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &selector));
}

void expect_own_calls_caught() {
  selector = SYSCALL_DISPATCH_FILTER_BLOCK;
  syscall(SYS_getppid);
  target::expect_equal("the system call that was caught", static_cast<uint64_t>(caught_call),
                       SYS_getppid);
}

// read(2), write(2) and exit(2) are all that is left.
[[noreturn]] void be_strict(int ready, int end) {
  target::setup("strict mode", prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
  char byte = 0;
  bool good = write(ready, &byte, 1) == 1;
  good = read(end, &byte, 1) == 0 && good;
  while (true) syscall(SYS_exit, good ? 0 : 1);
}

// Waits in read(2) until the other end is closed.
void wait_for_end_of(int pipe) {
  char byte = 0;
  if (const ssize_t n = read(pipe, &byte, 1); n != 0) target::differs("read gave %zd", n);
}

}  // namespace

int main() {
  target::prepare_end();
  int ready[2], end[2];
  target::setup("pipe", pipe(ready));
  target::setup("pipe", pipe(end));

  const pid_t strict = target::setup("fork", fork());
  if (strict == 0) {
    close(end[1]);
    be_strict(ready[1], end[0]);
  }

  // One without the right to set filters: no_new_privs is what lets it.
  const pid_t inheriting = target::setup("fork", fork());
  if (inheriting == 0) {
    close(end[1]);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    target::setup("a filter", static_cast<int>(set_filter(kFirst, SECCOMP_FILTER_FLAG_LOG)));
    drop_rights(65534);
    target::Thread thread("inherits", [&] {
      write(ready[1], "", 1);
      wait_for_end_of(end[0]);
      while (errno = 0, syscall(kLate.call, 0, 0, 0), errno != kLate.error) target::sleep_ms(1);
      expect_answer("a thread that shares", kFirst, true);
    });
    wait_for_end_of(end[0]);
    // Only as long as the threads' filters are the same ones, not just equal.
    target::expect_equal("TSYNC",
                         static_cast<uint64_t>(set_filter(kLate, SECCOMP_FILTER_FLAG_TSYNC)), 0);
    expect_answer("a child", kFirst, true);
    thread.join();
    _exit(target::verdict());
  }

  target::setup("a filter", static_cast<int>(set_filter(kFirst, 0)));
  target::setup("the longest filter", static_cast<int>(set_filter(kSecond, 0, BPF_MAXINSNS)));
  target::Thread more("more", [&] {
    target::setup("a filter", static_cast<int>(set_filter(kOfThread, SECCOMP_FILTER_FLAG_LOG)));
    drop_rights(1000);
    write(ready[1], "", 1);
    wait_for_end_of(end[0]);
    expect_answer("a thread", kFirst, true);
    expect_answer("a thread", kOfThread, true);
    expect_user(1000);
  });
  target::Thread catcher("catcher", [&] {
    catch_own_calls();
    write(ready[1], "", 1);
    wait_for_end_of(end[0]);
    expect_own_calls_caught();
    expect_answer("the catcher", kOfThread, false);
  });
  // Nobody can ask it where its end is to be told; joining it hangs if that is lost.
  target::Thread untold("untold", [&] {
    target::setup("a filter", static_cast<int>(set_filter(kUntold, 0)));
    write(ready[1], "", 1);
    wait_for_end_of(end[0]);
    expect_answer("a thread that cannot be asked", kUntold, true);
  });
  char bytes[5];
  for (size_t n = 0; n < sizeof bytes;)
    n += static_cast<size_t>(
        target::setup("read", static_cast<int>(read(ready[0], bytes, sizeof bytes - n))));
  target::ready();
  target::wait_for_end();

  target::expect_equal("strict mode", status_of(strict, "Seccomp") == "1", 1);
  target::expect_equal("the child's filters", status_of(inheriting, "Seccomp_filters") == "1", 1);
  target::expect_equal("the child's no_new_privs", status_of(inheriting, "NoNewPrivs") == "1", 1);
  target::expect_equal("filters", status_of(getpid(), "Seccomp_filters") == "2", 1);
  target::expect_equal("no_new_privs", status_of(getpid(), "NoNewPrivs") == "0", 1);
  expect_answer("the first thread", kFirst, true);
  expect_answer("the first thread", kSecond, true);
  expect_answer("the first thread", kOfThread, false);
  expect_user(0);
  close(end[1]);
  more.join();
  catcher.join();
  untold.join();
  target::expect_success_of(strict);
  target::expect_success_of(inheriting);
  return target::verdict();
}
