#include "core/linux/detour.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <functional>

#include "core/base/error.h"
#include "core/linux/remote_memory.h"
#include "core/linux/twin.h"
#include "core/linux/visitor.h"
#include "core/linux/write_tracker.h"

using namespace snapgdb;

namespace {

constexpr size_t kPages = 64;

// A child that says 'r', runs `body`, and exits with its result.
class Child {
 public:
  explicit Child(const std::function<int()>& body) {
    REQUIRE(::pipe(pipe_) == 0);
    memory_ = static_cast<char*>(
        ::mmap(nullptr, kPages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (size_t i = 0; i < kPages; ++i) memory_[i * 4096] = static_cast<char>('a' + i % 26);
    pid_ = ::fork();
    if (pid_ == 0) {
      if (::write(pipe_[1], "r", 1) != 1) ::_exit(99);
      ::_exit(body());
    }
    char byte = 0;
    REQUIRE(::read(pipe_[0], &byte, 1) == 1);
  }
  ~Child() {
    if (pid_ > 0) ::kill(pid_, SIGKILL), ::waitpid(pid_, nullptr, 0);
    ::munmap(memory_, kPages * 4096);
    ::close(pipe_[0]), ::close(pipe_[1]);
  }
  int exit_status() {
    int status = 0;
    REQUIRE(::waitpid(std::exchange(pid_, 0), &status, 0) > 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }
  Tid tid() const { return Tid{pid_}; }
  ProcDirectory proc() const { return ProcDirectory::of(Pid{pid_}); }
  char* memory() const { return memory_; }

 private:
  int pipe_[2];
  char* memory_;
  pid_t pid_ = 0;
};

Tracee stopped(const Child& child) {
  auto tracee = Tracee::seize_if_alive(child.tid());
  REQUIRE(tracee);
  tracee->interrupt_if_alive();
  REQUIRE(tracee->wait_stop(std::chrono::seconds(10)));
  return std::move(*tracee);
}

Detour::Place place_for(const Child& child, const Tracee& task) {
  const auto mappings = parse_mappings(child.proc().read("maps"));
  GadgetFinder finder;
  const auto gadgets = finder.find(child.tid(), mappings);
  REQUIRE(gadgets);
  const auto stack = free_stack(mappings, task.registers().rsp);
  REQUIRE(stack);
  return {*gadgets, stack->low, stack->high};
}

// Sleeps for 300 ms in poll(2), and tells whether it was as if nobody had been there.
int sleep_undisturbed() {
  timespec begin{}, end{};
  ::clock_gettime(CLOCK_MONOTONIC, &begin);
  const int result = ::poll(nullptr, 0, 300);
  ::clock_gettime(CLOCK_MONOTONIC, &end);
  const double took = static_cast<double>(end.tv_sec - begin.tv_sec) +
                      static_cast<double>(end.tv_nsec - begin.tv_nsec) / 1e9;
  if (result != 0) return 1;
  return took < 0.299 ? 2 : 0;
}

int spin_undisturbed() {
  volatile double x = 1.5;  // in memory and, at each turn, in a vector register
  for (long i = 0; i < 200'000'000; ++i)
    if (x * 2 != 3) return 1;
  return 0;
}

size_t count_entries(const ProcDirectory& proc, const char* name) {
  return proc.list(name).size();
}

}  // namespace

TEST_CASE("a task performs system calls on a detour and goes on as if nothing had been") {
  const auto body = GENERATE(&sleep_undisturbed, &spin_undisturbed);
  Child child(body);
  ::usleep(20'000);
  {
    Tracee task = stopped(child);
    const Detour::Place place = place_for(child, task);
    REQUIRE(Detour::obstacle(task) == std::nullopt);
    const user_regs_struct before = task.registers();
    const uint64_t mask = task.signal_mask();
    {
      Detour detour(task, place, 4096);
      CHECK(detour.call(SYS_getpid) == child.tid().value);
      CHECK(detour.call(SYS_close, {9999}) == -EBADF);
      CHECK(task.signal_mask() != mask);
    }
    const user_regs_struct after = task.registers();
    CHECK(std::memcmp(&before, &after, sizeof before) == 0);
    CHECK(task.signal_mask() == mask);
  }
  CHECK(child.exit_status() == 0);
}

// Every signal blocked, SIGWINCH and SIGUSR1 pending.
int keep_signals_pending() {
  sigset_t all{}, pending{};
  ::sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, nullptr);
  ::raise(SIGWINCH), ::raise(SIGUSR1);
  if (const int disturbed = sleep_undisturbed()) return disturbed;
  ::sigpending(&pending);
  for (int signal = 1; signal < SIGRTMIN; ++signal)
    if (::sigismember(&pending, signal) != (signal == SIGWINCH || signal == SIGUSR1)) return signal;
  return 0;
}

TEST_CASE("several system calls are made in one go, or one by one, with the same results") {
  const auto body = GENERATE(&sleep_undisturbed, &spin_undisturbed, &keep_signals_pending);
  const bool in_one_go = GENERATE(true, false);
  const bool has_little_code = GENERATE(true, false);
  CAPTURE(in_one_go, has_little_code);
  Child child(body);
  ::usleep(20'000);
  {
    Tracee task = stopped(child);
    Detour::Place place = place_for(child, task);
    if (has_little_code) place.gadgets.sigreturn = place.gadgets.pop_rdx = 0;
    REQUIRE(place.gadgets.can_chain());
    if (in_one_go) place.ignored = ignored_signals(ProcFields(child.proc().read("status")));
    const user_regs_struct before = task.registers();
    const uint64_t mask = task.signal_mask();
    uint64_t child_mask = 0;
    {
      Detour detour(task, place, 4096);
      const SystemCall calls[] = {
          {SYS_gettid, {}},
          {SYS_close, {9999}},
          {SYS_rt_sigaction, {SIGUSR1, 0, detour.scratch() + 64, 8}},
          {SYS_prctl, {PR_GET_DUMPABLE}},
          {SYS_rt_sigprocmask, {SIG_BLOCK, 0, detour.scratch(), 8}},
      };
      const std::vector<int32_t> expected{child.tid().value, -EBADF, 0, 1, 0};
      CHECK(detour.perform(calls) == expected);
      CHECK(detour.perform(calls) == expected);
      detour.read(detour.scratch(), std::as_writable_bytes(std::span(&child_mask, 1)));
    }
    CHECK(child_mask != mask);  // while it was away, it could not be interrupted
    const user_regs_struct after = task.registers();
    CHECK(std::memcmp(&before, &after, sizeof before) == 0);
    CHECK(task.signal_mask() == mask);
    CHECK(task.status().event() == PTRACE_EVENT_STOP);
  }
  CHECK(child.exit_status() == 0);
}

TEST_CASE("a program that is stopped by job control during a detour is stopped afterwards") {
  const bool in_one_go = GENERATE(true, false);
  CAPTURE(in_one_go);
  Child child(&spin_undisturbed);
  {
    Tracee task = stopped(child);
    Detour::Place place = place_for(child, task);
    if (in_one_go) place.ignored = ignored_signals(ProcFields(child.proc().read("status")));
    REQUIRE(::kill(child.tid().value, SIGSTOP) == 0);
    Detour detour(task, place, 4096);
    CHECK(detour.perform(std::array{SystemCall{SYS_getpid, {}}}) ==
          std::vector<int32_t>{child.tid().value});
  }
  int status = 0;
  REQUIRE(::waitpid(child.tid().value, &status, WUNTRACED) == child.tid().value);
  CHECK(WIFSTOPPED(status));
  REQUIRE(::kill(child.tid().value, SIGCONT) == 0);
  CHECK(child.exit_status() == 0);
}

TEST_CASE("a visitor sees signal actions, and its descriptors are its own") {
  Child child([] {
    ::signal(SIGUSR1, SIG_IGN);
    return sleep_undisturbed();
  });
  ::usleep(20'000);
  const size_t descriptors = count_entries(child.proc(), "fd");
  {
    Tracee task = stopped(child);
    const Detour::Place place = place_for(child, task);
    REQUIRE(place.has_room_for(Visitor::kScratch));
    Visitor visitor(task, place);
    const uint64_t out = visitor.reserve(64 * 32);
    for (uint64_t number = 1; number <= 64; ++number)
      visitor.call(SYS_rt_sigaction, {number, 0, out + (number - 1) * 32, 8});
    visitor.call(SYS_userfaultfd, {1});
    bool seen = false;
    visitor.run([&](Tid tid) {
      seen = true;
      const ProcDirectory thread = child.proc().task(tid);
      CHECK(count_entries(thread, "fd") == 1);
      CHECK(count_entries(child.proc(), "fd") == descriptors);
    });
    CHECK(seen);
    std::array<uint64_t, 64 * 4> actions{};
    visitor.read(out, std::as_writable_bytes(std::span(actions)));
    CHECK(actions[(SIGUSR1 - 1) * 4] == 1);  // SIG_IGN
    CHECK(actions[(SIGUSR2 - 1) * 4] == 0);
    CHECK(count_entries(child.proc(), "task") == 1);
  }
  CHECK(child.exit_status() == 0);
}

TEST_CASE("a write tracker finds what was written since, and nothing else") {
  const int start = 3;
  Child child([&] {
    ::usleep(200'000);
    return 0;
  });
  const auto base = reinterpret_cast<uint64_t>(child.memory());
  Tracee task = stopped(child);
  const Detour::Place place = place_for(child, task);
  WriteTracker tracker(task, place, child.proc());
  REQUIRE(tracker.add(base, base + kPages * 4096));
  size_t first = 0;
  tracker.take_written(base, base + kPages * 4096,
                       [&](uint64_t from, uint64_t to) { first += (to - from) / 4096; });
  CHECK(first == kPages);
  CHECK(tracker.count_written() == 0);

  const RemoteMemory memory(child.tid(), child.proc());
  const Fd mem = child.proc().open("mem", O_RDWR);
  REQUIRE(::pwrite(mem.get(), "x", 1, static_cast<off_t>(base + start * 4096)) == 1);
  CHECK(tracker.count_written() == 1);
  Pagemap(child.proc()).classify(base, base + kPages * 4096, [&](const PageRun& run) {
    CHECK(run.what == PageClass::kAnonymous);
    CHECK(run.unwritten == (run.start != base + start * 4096));
  });
}

TEST_CASE("a twin keeps memory as it was while the program runs on, and leaves nothing behind") {
  Child child([] { return sleep_undisturbed(); });
  ::usleep(20'000);
  const std::string maps = child.proc().read("maps");
  pid_t twin_pid = 0;
  {
    std::optional<Twin> twin;
    {
      Tracee task = stopped(child);
      twin.emplace(task, place_for(child, task));
    }
    twin_pid = twin->tid().value;
    const Fd mem = child.proc().open("mem", O_RDWR);
    REQUIRE(::pwrite(mem.get(), "XYZ", 3, reinterpret_cast<off_t>(child.memory())) == 3);
    const RemoteMemory memory(twin->tid(), ProcDirectory::of(Pid{twin_pid}));
    std::array<std::byte, 4096> page{};
    REQUIRE(memory.read(reinterpret_cast<uint64_t>(child.memory()), page) == page.size());
    CHECK(static_cast<char>(page[0]) == 'a');
    CHECK(child.proc().children().empty());
    CHECK(count_entries(child.proc(), "task") == 1);
    CHECK(ProcDirectory::of(Pid{twin_pid}).list("fd").empty());
  }
  CHECK(child.proc().read("maps") == maps);
  CHECK(child.exit_status() == 0);
}

TEST_CASE("a system call that was restarted once is begun anew under its own number") {
  constexpr uint64_t kRestartBlock = static_cast<uint64_t>(-516);
  constexpr std::array<std::byte, kCodeBefore> kUnknown{};
  constexpr std::array<std::byte, kCodeBefore> kPoll{
      std::byte{0xb8}, std::byte{SYS_poll}, {}, {}, {}, std::byte{0x0f}, std::byte{0x05}};
  user_regs_struct registers{};
  registers.rip = 0x1002;
  registers.rax = kRestartBlock;
  registers.orig_rax = SYS_restart_syscall;
  CHECK(waits_with_restart_block(registers));
  CHECK_FALSE(restarted_by_hand(registers, kUnknown, "").has_value());
  CHECK(restarted_by_hand(registers, kPoll, "")->rax == SYS_poll);
  CHECK(restarted_by_hand(registers, kPoll, "")->rip == 0x1000);
  CHECK(restarted_by_hand(registers, kUnknown, "futex_do_wait")->rax == SYS_futex);
  registers.rdi = CLOCK_MONOTONIC;
  CHECK(restarted_by_hand(registers, kUnknown, "hrtimer_nanosleep")->rax == SYS_clock_nanosleep);
  registers.rdi = 0x7fff0000;
  CHECK(restarted_by_hand(registers, kUnknown, "hrtimer_nanosleep")->rax == SYS_nanosleep);

  registers.orig_rax = SYS_read;
  registers.rax = static_cast<uint64_t>(-EINTR);  // that is a result
  CHECK(restarted_by_hand(registers, kUnknown, "")->rip == 0x1002);
}

TEST_CASE(
    "a signal that was to be delivered is delivered after a detour, with all that came with it") {
  Child child([] {
    static volatile sig_atomic_t seen = 0;
    struct sigaction action {};
    action.sa_flags = SA_SIGINFO;
    action.sa_sigaction = [](int, siginfo_t* info, void*) {
      seen = info->si_code == SI_QUEUE && info->si_value.sival_int == 4711 ? 1 : 2;
    };
    ::sigaction(SIGUSR1, &action, nullptr);
    ::usleep(200'000);  // is interrupted by it
    while (seen == 0) ::usleep(10'000);
    return seen == 1 ? 0 : 3;
  });
  ::usleep(20'000);
  {
    Tracee task = stopped(child);
    const Detour::Place place = place_for(child, task);
    REQUIRE(::sigqueue(child.tid().value, SIGUSR1, {.sival_int = 4711}) == 0);
    task.resume_if_alive(0);
    REQUIRE(task.wait_stop(std::chrono::seconds(10)));
    REQUIRE(task.status().signal_delivery());
    const siginfo_t before = task.siginfo();
    {
      Detour detour(task, place, 4096);
      CHECK(detour.call(SYS_getpid) == child.tid().value);
    }
    REQUIRE(task.status().signal_delivery());
    CHECK(task.signal_on_its_way() == SIGUSR1);
    const siginfo_t after = task.siginfo();
    CHECK(std::memcmp(&before, &after, sizeof before) == 0);
  }
  CHECK(child.exit_status() == 0);
}
