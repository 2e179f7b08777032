#include <asm/prctl.h>
#include <errno.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <deque>
#include <mutex>

#include "blocking.h"
#include "registers.h"
#include "sentinel.h"

namespace sentinel {
namespace {

using target::differs;
using target::expect_equal;
using target::mix;
using target::setup;
using target::Thread;

std::atomic<bool> ending{false};

void install(int signal, void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction action {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
  setup("sigaction", sigaction(signal, &action, nullptr));
}

void join_all(std::deque<Thread>& threads) {
  ending = true;
  for (Thread& thread : threads) thread.join();
}

// ---- tiny: one thread, and timers ------------------------------------------------------------

constexpr uint64_t kTimerNs = 7'000'000;
uint64_t timer_started;
std::atomic<uint64_t> timer_expirations{0};
std::atomic<bool> timer_in_step{false};
std::atomic<unsigned> alarms{0};
std::array<char, 64 << 10> signal_stack;

void expect_on_signal_stack() {
  const char* here = static_cast<const char*>(__builtin_frame_address(0));
  if (here < signal_stack.data() || here >= signal_stack.data() + signal_stack.size())
    differs("a handler is not on the signal stack");
}

void on_timer(int, siginfo_t* info, void*) {
  expect_on_signal_stack();
  timer_expirations += 1 + static_cast<uint64_t>(info->si_overrun);
  const uint64_t due = (target::now_ns() - timer_started) / kTimerNs;
  timer_in_step = due - timer_expirations + 1 <= 2;
}

void on_alarm(int, siginfo_t*, void*) {
  expect_on_signal_stack();
  ++alarms;
}

// A late handler counts late: that it is in step is seen by any that comes in time.
void expect_timers_to_go_on() {
  timer_in_step = false;
  const unsigned before = alarms;
  for (int tries = 0; tries < 10'000 && !(timer_in_step && alarms > before); ++tries)
    target::sleep_ms(1);
  if (!timer_in_step) differs("the POSIX timer has expired %lu times", timer_expirations.load());
  if (alarms == before) differs("the interval timer has stopped");
}

void play_tiny(Line& line) {
  stack_t stack{};
  stack.ss_sp = signal_stack.data();
  stack.ss_size = signal_stack.size();
  setup("sigaltstack", sigaltstack(&stack, nullptr));
  install(SIGRTMIN, on_timer);
  install(SIGALRM, on_alarm);
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGRTMIN;
  timer_t timer;
  setup("timer_create", timer_create(CLOCK_MONOTONIC, &event, &timer));
  const itimerspec period{{0, kTimerNs}, {0, kTimerNs}};
  timer_started = target::now_ns();
  setup("timer_settime", timer_settime(timer, 0, &period, nullptr));
  const itimerval interval{{0, 11'000}, {0, 11'000}};
  setup("setitimer", setitimer(ITIMER_REAL, &interval, nullptr));
  Unchanged unchanged;
  unchanged.remember();
  line.serve([&] {
    unchanged.check();
    expect_timers_to_go_on();
    stack_t seen{};
    sigaltstack(nullptr, &seen);
    expect_equal("the signal stack", reinterpret_cast<uint64_t>(seen.ss_sp),
                 reinterpret_cast<uint64_t>(stack.ss_sp));
  });
}

// ---- memory: pages that are rewritten all the time, mappings that come and go ----------------

constexpr size_t kPage = 4096, kWords = kPage / 8;
constexpr size_t kPages = (32 << 20) / kPage;

using Page = std::array<uint64_t, kWords>;

void fill(Page& page, uint64_t seed) {
  for (size_t i = 0; i < kWords; ++i) page[i] = mix(seed * kWords + i);
}

bool holds(const Page& page, uint64_t seed) {
  for (size_t i = 0; i < kWords; ++i)
    if (page[i] != mix(seed * kWords + i)) return false;
  return true;
}

Page* map_pages(size_t count) {
  void* area =
      mmap(nullptr, count * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (area == MAP_FAILED) target::cannot("mmap");
  return static_cast<Page*>(area);
}

// What each page holds follows from its number and how often it was rewritten, which is kept apart:
// a page that goes back in time is found as well.
class Pages {
 public:
  Pages(size_t count, uint64_t seed) : pages_(map_pages(count)), generations_(count), seed_(seed) {
    for (size_t i = 0; i < count; ++i) fill(pages_[i], seed_of(i));
  }

  void rewrite_some(int count) {
    for (; count > 0; --count) {
      const size_t i = mix(++random_) % generations_.size();
      check(i);
      ++generations_[i];
      fill(pages_[i], seed_of(i));
    }
  }

  void check_all() const {
    for (size_t i = 0; i < generations_.size(); ++i) check(i);
  }

 private:
  uint64_t seed_of(size_t i) const { return seed_ ^ (uint64_t{i} << 32) ^ generations_[i]; }
  void check(size_t i) const {
    if (!holds(pages_[i], seed_of(i)))
      differs("page %zu is not as written the %u. time", i, generations_[i]);
  }

  Page* pages_;
  std::vector<uint32_t> generations_;
  uint64_t seed_, random_ = seed_;
};

void expect_zeros(const Page* pages, size_t count) {
  for (size_t i = 0; i < count * kWords; ++i)
    if (pages[i / kWords][i % kWords]) return differs("new memory is not zero");
}

void map_and_unmap(uint64_t seed) {
  const size_t count = 1 + seed % 16;
  Page* pages = map_pages(count);
  expect_zeros(pages, count);
  for (size_t i = 0; i < count; ++i) fill(pages[i], seed + i);
  setup("mprotect", mprotect(pages, count * kPage, PROT_READ));
  for (size_t i = 0; i < count; ++i)
    if (!holds(pages[i], seed + i)) differs("a page of a new mapping is not as written");
  setup("mprotect", mprotect(pages, count * kPage, PROT_READ | PROT_WRITE));
  setup("madvise", madvise(pages, count * kPage, MADV_DONTNEED));
  expect_zeros(pages, count);
  setup("munmap", munmap(pages, count * kPage));
}

void play_memory(Line& line) {
  std::mutex mappings_change;
  std::array<Pages, 2> halves{Pages(kPages / 2, 0x1111), Pages(kPages / 2, 0x2222)};
  std::deque<Thread> threads;
  for (Pages& half : halves)
    threads.emplace_back("writer", [&half] {
      for (; !ending; usleep(1000)) half.rewrite_some(60);
      half.check_all();
    });
  threads.emplace_back("mapper", [&] {
    for (uint64_t seed = 1; !ending; usleep(1000)) {
      const std::scoped_lock lock(mappings_change);
      map_and_unmap(mix(++seed));
    }
  });
  Unchanged unchanged;
  std::unique_lock before(mappings_change);
  unchanged.remember();
  before.unlock();
  line.serve([&] {
    const std::scoped_lock lock(mappings_change);
    unchanged.check();
  });
  join_all(threads);
}

// ---- threads: registers, locks, restartable sequences ----------------------------------------

uint64_t segment_base(int which) {
  uint64_t base = 0;
  syscall(SYS_arch_prctl, which, &base);
  return base;
}

void hold_registers(uint64_t seed) {
  const uint64_t gs = 0x7000'0000'1000 + seed * 4096, fs = segment_base(ARCH_GET_FS);
  setup("ARCH_SET_GS", syscall(SYS_arch_prctl, ARCH_SET_GS, gs));
  while (!ending) {
    target::hold_counting(seed, 1'000'000);
    expect_equal("the base of fs", segment_base(ARCH_GET_FS), fs);
    expect_equal("the base of gs", segment_base(ARCH_GET_GS), gs);
    usleep(2000);
  }
}

// A counter that is right only if whoever is interrupted between load and store begins anew: both
// threads are on one CPU.
volatile uint64_t sequence_count = 0;
std::atomic<uint64_t> sequence_commits{0};

bool increment_slowly(struct rseq* area, uint64_t rounds) {
  asm goto(
      ".pushsection __rseq_cs, \"aw\"\n"
      ".balign 32\n"
      "3: .long 0, 0\n"
      ".quad 1f, 2f - 1f, 4f\n"
      ".popsection\n"
      "lea 3b(%%rip), %%rax\n"
      "mov %%rax, %c[rseq_cs](%[area])\n"
      "1: mov (%[count]), %%rax\n"
      "mov %[rounds], %%rcx\n"
      "5: loop 5b\n"
      "inc %%rax\n"
      "mov %%rax, (%[count])\n"
      "2:\n"
      ".pushsection __rseq_failure, \"ax\"\n"
      ".byte 0x0f, 0xb9, 0x3d\n"
      ".long %c[signature]\n"
      "4: jmp %l[aborted]\n"
      ".popsection\n" ::[area] "r"(area),
      [count] "r"(&sequence_count), [rounds] "r"(rounds),
      [rseq_cs] "i"(offsetof(struct rseq, rseq_cs)), [signature] "i"(RSEQ_SIG)
      : "rax", "rcx", "memory", "cc"
      : aborted);
  return true;
aborted:
  return false;
}

void count_in_sequences() {
  if (__rseq_size == 0) return;
  cpu_set_t first;
  CPU_ZERO(&first);
  CPU_SET(0, &first);
  sched_setaffinity(0, sizeof first, &first);  // where that is not allowed, aborts are rarer
  auto* area = reinterpret_cast<struct rseq*>(static_cast<char*>(__builtin_thread_pointer()) +
                                              __rseq_offset);
  for (unsigned round = 0; !ending; ++round) {
    sequence_commits += increment_slowly(area, 20'000);
    if (round % 32 == 0) usleep(3000);
  }
}

pthread_mutex_t contended;
uint64_t under_lock = 0;
std::atomic<uint64_t> locked{0};

void prepare_contended() {
  pthread_mutexattr_t kind;
  pthread_mutexattr_init(&kind);
  pthread_mutexattr_setprotocol(&kind, PTHREAD_PRIO_INHERIT);
  pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&contended, &kind);
}

void* robust_list() {
  void* head = nullptr;
  size_t size = 0;
  syscall(SYS_get_robust_list, 0, &head, &size);
  return head;
}

void contend() {
  const void* const list = robust_list();
  for (; !ending; usleep(100)) {
    expect_equal("pthread_mutex_lock", pthread_mutex_lock(&contended), 0);
    const uint64_t before = under_lock;
    usleep(50);
    under_lock = before + 1;
    ++locked;
    expect_equal("pthread_mutex_unlock", pthread_mutex_unlock(&contended), 0);
  }
  if (robust_list() != list) differs("the list of robust futexes has changed");
}

void play_threads(Line& line) {
  prepare_contended();
  install(SIGUSR2, [](int, siginfo_t*, void*) {});
  std::deque<Thread> threads;
  for (uint64_t seed = 1; seed <= 2; ++seed)
    threads.emplace_back("registers", [seed] { hold_registers(seed); });
  for (int i = 0; i < 2; ++i) threads.emplace_back("sequences", count_in_sequences);
  for (int i = 0; i < 3; ++i) threads.emplace_back("contending", contend);
  for (int i = 0; i < 16; ++i)
    threads.emplace_back("sleeper", [] {
      while (!ending) target::sleep_ms(7);
    });
  Thread in_pause("pause", [] {
    sigset_t usr2;
    sigemptyset(&usr2);
    sigaddset(&usr2, SIGUSR2);
    pthread_sigmask(SIG_UNBLOCK, &usr2, nullptr);
    target::hold_in_pause(3);
  });
  target::wait_until_blocked(in_pause.tid(), SYS_pause);
  Unchanged unchanged;
  unchanged.remember();
  line.serve([&] { unchanged.check(); });
  join_all(threads);
  target::end_holding();
  for (; in_pause.alive(); target::sleep_ms(1)) in_pause.signal(SIGUSR2);
  in_pause.join();
  expect_equal("the sequences' counter", sequence_count, sequence_commits);
  expect_equal("the counter under the lock", under_lock, locked);
}

// ---- blocked: every kind of blocking call ----------------------------------------------------

void play_blocked(Line& line) {
  // Begun anew at every capture, a call would not end before the captures do.
  constexpr uint64_t kRoundNs = 400'000'000, kLateNs = 10'000'000'000;
  target::BlockedThreads threads(kRoundNs, kLateNs);
  Unchanged unchanged;
  unchanged.remember();
  line.serve([&] { unchanged.check(); });
  threads.finish();
}

// ---- parent: children that come and go -------------------------------------------------------

std::atomic<unsigned> children_ended{0};

void have_a_child(unsigned number) {
  // A parent in vfork(2) sleeps until the child is gone.
  const pid_t child = setup("fork", number % 3 == 0 ? vfork() : fork());
  if (child == 0) {
    if (number % 2) usleep(1500);
    _exit(static_cast<int>(number % 200));
  }
  siginfo_t info{};
  const int result = waitid(P_PID, child, &info, WEXITED | WSTOPPED | WCONTINUED);
  if (result) differs("waitid: %s", strerror(errno));
  expect_equal("the child's code", info.si_code, CLD_EXITED);
  expect_equal("the child's status", info.si_status, number % 200);
}

void play_parent(Line& line) {
  install(SIGCHLD, [](int, siginfo_t*, void*) { ++children_ended; });
  Unchanged unchanged;
  unchanged.remember(true);
  line.announce();
  unsigned number = 0;
  const auto check = [&] {
    unchanged.check();
    expect_equal("the number of SIGCHLDs", children_ended, number);
  };
  for (Line::Request request; (request = line.wait(2)) != Line::Request::kEnd;) {
    if (request == Line::Request::kCheck) {
      check();
      line.answer();
    }
    have_a_child(number++);
  }
  check();
}

// ---- orphan: adopted by the root -------------------------------------------------------------

void play_orphan(Line& line) {
  Unchanged unchanged;
  unchanged.remember();
  line.serve([&] { unchanged.check(); });
}

}  // namespace

const std::vector<Role> kRoles{
    {"tiny", play_tiny},       {"memory", play_memory}, {"threads", play_threads},
    {"blocked", play_blocked}, {"parent", play_parent}, {"orphan", play_orphan, true},
};

}  // namespace sentinel
