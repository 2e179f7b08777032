#include "core/linux/freezer.h"

#include <elf.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <functional>
#include <thread>

#include "core/base/error.h"
#include "core/linux/pagemap.h"
#include "core/linux/remote_memory.h"
#include "core/linux/scheduling.h"

using namespace snapgdb;
using Catch::Matchers::Contains;

namespace {

// A child that runs `body` and then sleeps; killed and reaped at the end.
class Child {
 public:
  explicit Child(const std::function<void()>& body) {
    int ready[2];
    REQUIRE(::pipe(ready) == 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      body();
      if (::write(ready[1], "x", 1) != 1) ::_exit(1);
      while (true) ::pause();
    }
    char byte = 0;
    ::close(ready[1]);
    REQUIRE(::read(ready[0], &byte, 1) == 1);
    ::close(ready[0]);
  }
  ~Child() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Pid pid() const { return Pid{pid_}; }
  char state() const { return ProcDirectory::of(pid()).stat().state; }

 private:
  pid_t pid_ = 0;
};

volatile uint64_t* shared_counter() {
  return static_cast<uint64_t*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
}

}  // namespace

TEST_CASE("a tree is stopped with all its threads and grandchildren, and runs on") {
  volatile uint64_t* count = shared_counter();
  const Child child([&] {
    if (::fork() == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      while (true) ::pause();
    }
    for (int i = 0; i < 3; ++i)
      std::thread([count] {
        while (true) *count = *count + 1;
      }).detach();
  });
  {
    Tracees tracees;
    const FrozenTree tree = freeze({child.pid()}, tracees);
    REQUIRE(tree.processes.size() == 2);
    CHECK(tree.processes[0].pid == child.pid());
    CHECK(tree.processes[0].tasks.size() == 4);
    CHECK(tree.processes[0].tasks[0].tid == leader_of(child.pid()));
    CHECK(tree.processes[1].tasks.size() == 1);
    const uint64_t before = *count;
    ::usleep(20'000);
    CHECK(*count == before);
  }
  const uint64_t before = *count;
  for (int i = 0; i < 10'000 && *count == before; ++i) ::usleep(1000);
  CHECK(*count != before);  // the threads race, so that it may go back as well
}

TEST_CASE("what job control had stopped stays stopped") {
  const Child child([] {});
  ::kill(child.pid().value, SIGSTOP);
  while (child.state() != 'T') ::usleep(1000);
  {
    Tracees tracees;
    const FrozenTree tree = freeze({child.pid()}, tracees);
    CHECK(tree.processes[0].tasks[0].state_before == 'T');
    CHECK(tracees.begin()->second.status().job_control_stop());
  }
  ::usleep(20'000);
  CHECK(child.state() == 'T');
  ::kill(child.pid().value, SIGCONT);
  while (child.state() == 'T') ::usleep(1000);
}

TEST_CASE("a signal that arrives while the tree is held is delivered afterwards") {
  volatile uint64_t* seen = shared_counter();
  static volatile uint64_t* counter = seen;
  const Child child([] { ::signal(SIGUSR1, [](int) { *counter = *counter + 1; }); });
  {
    Tracees tracees;
    freeze({child.pid()}, tracees);
    ::kill(child.pid().value, SIGUSR1);
    ::usleep(10'000);
    CHECK(*seen == 0);
  }
  for (int i = 0; i < 1000 && *seen == 0; ++i) ::usleep(1000);
  CHECK(*seen == 1);
}

TEST_CASE("what cannot be captured is refused with its reason") {
  Tracees tracees;
  CHECK_THROWS_WITH(freeze({Pid{0x3fffffff}}, tracees), Contains("no such process"));
  CHECK_THROWS_WITH(freeze({Pid{::getpid()}}, tracees), Contains("snapgdb itself"));

  const pid_t zombie = ::fork();
  if (zombie == 0) ::_exit(3);
  while (ProcDirectory::of(Pid{zombie}).stat().state != 'Z') ::usleep(1000);
  CHECK_THROWS_WITH(freeze({Pid{zombie}}, tracees), Contains("zombie"));
  ::waitpid(zombie, nullptr, 0);

  const Child child([] {});
  Tracees first;
  freeze({child.pid()}, first);
  const pid_t other = ::fork();  // a second tracer
  if (other == 0) {
    Tracees second;
    try {
      freeze({child.pid()}, second);
    } catch (const Error& error) {
      const bool named = std::string(error.what()).find(fmt::format("traced by {}", ::getppid())) !=
                         std::string::npos;
      ::_exit(named ? 0 : 1);
    }
    ::_exit(2);
  }
  int status = 0;
  REQUIRE(::waitpid(other, &status, 0) == other);
  CHECK(status == 0);
}

namespace {

void wait_until_in_vfork(Tid tid) {
  while (*ProcDirectory::of(Pid{tid.value}).read_if_allowed("wchan") != "kernel_clone" ||
         ProcDirectory::of(Pid{tid.value}).stat().state != 'D')
    ::usleep(1000);
}

}  // namespace

TEST_CASE("a parent in vfork(2) is held by its child, and goes on once that is gone") {
  volatile uint64_t* in_child = shared_counter();  // 1: the child waits, 2: the parent went on
  const Child child([in_child] {
    std::thread([in_child] {
      if (::vfork() == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        *in_child = 1;
        while (true) ::pause();
      }
      *in_child = 2;
    }).detach();
  });
  while (*in_child != 1) ::usleep(1000);
  const Tid parent = ProcDirectory::of(child.pid()).tasks().back();
  wait_until_in_vfork(parent);
  Pid vforked;
  {
    Tracees tracees;
    const FrozenTree tree = freeze({child.pid()}, tracees);
    REQUIRE(tree.processes.size() == 2);
    vforked = tree.processes[1].pid;
    REQUIRE(tree.processes[0].tasks.size() == 2);
    const FrozenTask& held = tree.processes[0].tasks[1];
    CHECK(held.tid == parent);
    REQUIRE(held.in_vfork);
    CHECK(held.in_vfork->number == SYS_vfork);
    CHECK(held.in_vfork->stack_pointer != 0);
    CHECK_FALSE(tracees.contains(parent));
  }
  CHECK(*in_child == 1);
  ::kill(vforked.value, SIGKILL);
  for (int i = 0; i < 10'000 && *in_child != 2; ++i) ::usleep(1000);
  CHECK(*in_child == 2);
}

TEST_CASE("children that exec at once are no obstacle to stopping their parent in vfork(2)") {
  const Child child([] {
    std::thread([] {
      while (true) {
        const pid_t pid = ::vfork();
        if (pid == 0) ::execl("/bin/true", "true", nullptr);
        ::waitpid(pid, nullptr, 0);
      }
    }).detach();
  });
  for (int round = 0; round < 30; ++round) {
    Tracees tracees;
    const FrozenTree tree = freeze({child.pid()}, tracees);
    CHECK(tree.processes[0].tasks.size() == 2);
    ::usleep(static_cast<useconds_t>(round) * 100);
  }
}

TEST_CASE("a task in uninterruptible sleep is named when its time is over") {
  volatile uint64_t* reported = shared_counter();
  // In vfork(2), but for a child that is its sibling: nobody else in the tree could be held for it.
  const Child child([reported] {
    std::thread([reported] {
      if (::syscall(SYS_clone, CLONE_VFORK | CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) == 0) {
        *reported = static_cast<uint64_t>(::syscall(SYS_getpid));
        while (true) ::pause();
      }
    }).detach();
  });
  while (*reported == 0) ::usleep(1000);
  const auto sibling = static_cast<pid_t>(*reported);
  const Tid asleep = ProcDirectory::of(child.pid()).tasks().back();
  wait_until_in_vfork(asleep);
  // On a thread of its own, whose end lets go of what cannot be detached from while it sleeps.
  std::thread([&] {
    Tracees tracees;
    FreezeOptions options;
    options.patience = std::chrono::milliseconds(100);
    CHECK_THROWS_WITH(freeze({child.pid()}, tracees, options),
                      Contains(fmt::format("cannot stop task {}", asleep.value)) &&
                          Contains("sleeps uninterruptibly"));
  }).join();
  ::kill(sibling, SIGKILL);
  ::waitpid(sibling, nullptr, 0);
}

TEST_CASE("hundreds of threads that never sleep are stopped, and run on") {
  constexpr size_t kThreads = 300;
  const Child child([] {
    for (size_t i = 0; i < kThreads; ++i)
      std::thread([] {
        for (volatile uint64_t n = 0;;) n = n + 1;
      }).detach();
  });
  const ScopedUrgency urgency;
  Tracees tracees;
  const FrozenTree tree = freeze({child.pid()}, tracees);
  CHECK(tree.processes[0].tasks.size() == kThreads + 1);
}

TEST_CASE("registers and memory of a stopped task are read") {
  static volatile uint64_t known = 0x1122334455667788;
  const Child child([] { known = 0x8877665544332211; });
  Tracees tracees;
  const FrozenTree tree = freeze({child.pid()}, tracees);
  const Tracee& tracee = tracees.begin()->second;
  CHECK(tracee.register_set(NT_PRSTATUS).size() == sizeof(user_regs_struct));
  CHECK(tracee.register_set(NT_X86_XSTATE).size() >= 576);
  const RemoteMemory memory(tree.processes[0].a_task(), tree.processes[0].task_proc);
  uint64_t value = 0;
  CHECK(memory.read(reinterpret_cast<uint64_t>(&known),
                    std::as_writable_bytes(std::span(&value, 1))) == sizeof value);
  CHECK(value == 0x8877665544332211);
  CHECK(memory.read(0, std::as_writable_bytes(std::span(&value, 1))) == 0);
}

TEST_CASE("the page table tells touched pages from untouched ones") {
  constexpr size_t kSize = 64 * 4096;
  auto* area = static_cast<char*>(
      ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ::madvise(area, kSize, MADV_NOHUGEPAGE);
  area[5 * 4096] = 1;
  area[6 * 4096] = 1;
  area[63 * 4096] = 1;
  const auto start = reinterpret_cast<uint64_t>(area);
  std::string map;
  uint64_t covered = start;
  Pagemap(ProcDirectory::of(Pid{::getpid()}))
      .classify(start, start + kSize, [&](const PageRun& run) {
        CHECK(run.start == covered);
        covered = run.end;
        map.append((run.end - run.start) / 4096, run.what == PageClass::kAnonymous ? 'a' : '.');
      });
  CHECK(covered == start + kSize);
  CHECK(map ==
        "....."
        "aa" +
            std::string(56, '.') + "a");
  ::munmap(area, kSize);
}
