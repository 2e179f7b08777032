// What a debugger wants to see of a program that runs: it waits for `go` to be set, does what --do
// says, and ends with status 0, or 1 if something went wrong.

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <string_view>
#include <vector>

#include "target.h"

extern "C" {
// What debuggers look for, by name.
volatile int go = 0;
volatile long counter = 0;
volatile long handled = 0;
volatile unsigned char bytes[16] = {};

[[gnu::noinline]] long bump(long by) {
  counter = counter + by;
  return counter;
}
[[gnu::noinline]] long twice(long value) {
  return 2 * value;
}
[[gnu::noinline]] void visit(long thread) {
  __atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED);
  asm volatile("" : : "r"(thread) : "memory");
}
[[gnu::noinline]] void count_here() {
  volatile long local = 11;
  local = 12;
  local = 13;
}
[[gnu::noinline]] void at_end(int status) {
  asm volatile("" : : "r"(status) : "memory");
}
}

namespace {

char** arguments;

void count() {
  for (long i = 1; i <= 20; ++i) bump(i);
  bytes[3] = 7;
  target::expect_equal("the sum", static_cast<uint64_t>(counter), 210);
}

void speak() {
  char line[64] = {};
  if (!fgets(line, sizeof line, stdin)) target::differs("no line came");
  target::say("heard %s", line);
  fprintf(stderr, "and says so\n");
}

constexpr int kThreads = 100, kVisits = 20;

void run_threads() {
  std::vector<std::unique_ptr<target::Thread>> threads;
  for (long i = 0; i < kThreads; ++i)
    threads.push_back(std::make_unique<target::Thread>("visitor", [i] {
      for (int visits = 0; visits < kVisits; ++visits) visit(i);
    }));
  for (const auto& thread : threads) thread->join();
  target::expect_equal("visits", static_cast<uint64_t>(counter), kThreads * kVisits);
}

void fork_many() {
  for (int i = 0; i < 200; ++i) {
    const pid_t child = target::setup("fork", fork());
    if (child == 0) _exit(static_cast<int>(twice(i % 50)));
    int status = 0;
    target::expect_equal("waitpid", static_cast<uint64_t>(waitpid(child, &status, 0)), child);
    target::expect_equal("status", status, static_cast<uint64_t>(i % 50 * 2) << 8);
    bump(1);
  }
}

constexpr int kForkers = 4, kForks = 25;

void count_beside_another() {
  std::atomic<bool> is_over = false;
  target::Thread other("busy", [&] {
    while (!is_over) visit(0);
  });
  count_here();
  is_over = true;
  other.join();
}

// Several threads at once. Who ends a child otherwise than it ends itself is found out.
void fork_from_threads() {
  std::vector<std::unique_ptr<target::Thread>> threads;
  for (int i = 0; i < kForkers; ++i)
    threads.push_back(std::make_unique<target::Thread>("forker", [i] {
      for (int fork_number = 0; fork_number < kForks; ++fork_number) {
        const int end = i * kForks + fork_number;
        const pid_t child = target::setup("fork", fork());
        if (child == 0) _exit(end);
        int status = 0;
        target::expect_equal("waitpid", static_cast<uint64_t>(waitpid(child, &status, 0)), child);
        target::expect_equal("status", status, static_cast<uint64_t>(end) << 8);
        visit(i);
      }
    }));
  for (const auto& thread : threads) thread->join();
}

[[noreturn]] void wait_for_ever() {
  while (true) pause();
}

// Its number is in `counter` when visit() is called; it ends with its parents.
void bear(void (*act)()) {
  int numbers[2];
  target::setup("pipe", pipe(numbers));
  const pid_t child = target::setup("fork", fork());
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const pid_t grandchild = fork();
    if (grandchild == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      act();
    }
    if (write(numbers[1], &grandchild, sizeof grandchild) < 0) _exit(1);
    wait_for_ever();
  }
  pid_t grandchild = 0;
  if (read(numbers[0], &grandchild, sizeof grandchild) < 0) target::cannot("read");
  counter = grandchild;
  visit(0);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}

// Threads that come and go, each with work to do.
void visit_from_new_threads() {
  while (go < 2) {
    target::Thread visitor("visitor", [] {
      visit(0);
      twice(2);
    });
    visitor.join();
  }
}

// Children and threads, until it is ended.
void storm() {
  std::vector<std::unique_ptr<target::Thread>> threads;
  for (int i = 0; i < kForkers; ++i)
    threads.push_back(std::make_unique<target::Thread>("forker", [] {
      while (go < 2) {
        const pid_t child = fork();
        if (child == 0) _exit(0);
        target::Thread visitor("visitor", [] { visit(0); });
        visitor.join();
        waitpid(child, nullptr, 0);
      }
    }));
  for (const auto& thread : threads) thread->join();
}

// It ends while its threads do what they do all the time.
[[noreturn]] void end_at_work() {
  for (long i = 0; i < kForkers; ++i)
    new target::Thread("visitor", [i] {
      while (true) visit(i);
    });
  usleep(100'000);
  exit(0);
}

void spawn() {
  char* words[] = {arguments[0], const_cast<char*>("--do"), const_cast<char*>("nothing"), nullptr};
  pid_t child = 0;
  errno = posix_spawn(&child, "/proc/self/exe", nullptr, nullptr, words, environ);
  if (errno) target::cannot("posix_spawn");
  int status = 0;
  waitpid(child, &status, 0);
  target::expect_equal("status", status, 0);
}

[[noreturn]] void do_nothing_anew() {
  char* words[] = {arguments[0], const_cast<char*>("--do"), const_cast<char*>("nothing"), nullptr};
  execv("/proc/thread-self/exe", words);
  target::cannot("execv");
}

[[noreturn]] void become_another() {
  // From another thread: its number is gone afterwards.
  target::Thread other("execer", do_nothing_anew);
  wait_for_ever();
}

// It traces its own child, as a debugger does.
void trace() {
  const pid_t child = target::setup("fork", fork());
  if (child == 0) {
    if (ptrace(PTRACE_TRACEME, 0, 0, 0) != 0) _exit(90);
    raise(SIGUSR1);
    _exit(17);
  }
  int status = 0;
  waitpid(child, &status, 0);
  target::expect_equal("stopped by", status, SIGUSR1 << 8 | 0x7f);
  target::expect_call("ptrace", ptrace(PTRACE_CONT, child, 0, 0));
  waitpid(child, &status, 0);
  target::expect_equal("status", status, 17 << 8);
}

void take_signals() {
  struct sigaction action {};
  action.sa_sigaction = [](int, siginfo_t* info, void*) {
    handled = handled + info->si_value.sival_int;
  };
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGUSR1, &action, nullptr);
  for (int i = 1; i <= 3; ++i) sigqueue(getpid(), SIGUSR1, {.sival_int = i});
  target::expect_equal("values handled", static_cast<uint64_t>(handled), 6);
}

void block_all() {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, nullptr);
  while (go < 2) usleep(1000);
}

[[noreturn]] void leave_to_another() {
  const pthread_t first = pthread_self();
  new target::Thread("heir", [first] {
    target::expect_call("pthread_join", pthread_join(first, nullptr));
    visit(1);
    while (go < 2) usleep(1000);
    if (go == 3) do_nothing_anew();
    at_end(target::verdict());
    exit(target::verdict());
  });
  pthread_exit(nullptr);
}

[[noreturn]] void crash() {
  *reinterpret_cast<volatile int*>(0x10) = 1;
  abort();
}

struct Deed {
  std::string_view name;
  void (*act)();
};
constexpr Deed kDeeds[] = {
    {"nothing", [] {}},
    {"count", count},
    {"speak", speak},
    {"threads", run_threads},
    {"locals", count_beside_another},
    {"forks", fork_many},
    {"spawn", spawn},
    {"forks-of-threads", fork_from_threads},
    {"grandchild", [] { bear(wait_for_ever); }},
    {"busy-grandchild", [] { bear(visit_from_new_threads); }},
    {"visitors", visit_from_new_threads},
    {"storm", storm},
    {"end-at-work", end_at_work},
    {"exec", become_another},
    {"trace", trace},
    {"signals", take_signals},
    {"block", block_all},
    {"crash", crash},
    {"leave", leave_to_another},
};

}  // namespace

int main(int argc, char** argv) {
  arguments = argv;
  const std::string_view wanted = target::option(argc, argv, "--do", "nothing");
  if (wanted != "nothing") {
    target::say("ready");
    while (!go && !target::has_flag(argc, argv, "--at-once")) usleep(1000);
  }
  for (const Deed& deed : kDeeds)
    if (deed.name == wanted) deed.act();
  at_end(target::verdict());
  return target::verdict();
}
