#include "core/capture.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <functional>

#include "core/base/error.h"
#include "core/image/image_reader.h"
#include "core/linux/remote_memory.h"
#include "core/resource/resource.h"
#include "tests/unit/image/sample_image.h"

using namespace snapgdb;
using namespace snapgdb::test;
using Catch::Matchers::Contains;

namespace {

// A child that sets something up and is then stopped for good, so that live and captured state can
// be compared at leisure.
class StoppedChild {
 public:
  explicit StoppedChild(const std::function<void()>& body) : pid_(::fork()) {
    if (pid_ == 0) {
      body();
      ::raise(SIGSTOP);
      ::_exit(0);
    }
    int status = 0;
    REQUIRE(::waitpid(pid_, &status, WUNTRACED) == pid_);
    REQUIRE(WIFSTOPPED(status));
  }
  ~StoppedChild() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Pid pid() const { return Pid{pid_}; }

 private:
  pid_t pid_;
};

std::shared_ptr<const Snapshot> captured(const StoppedChild& child, CaptureOptions options = {}) {
  static const TemporaryDirectory directory;
  const std::string path = directory.file("x.snapgdb");
  Capture capture(OutputFile::create(path), options);
  Tracees tracees;
  capture.take({child.pid()}, tracees, Moment{}, [&] { tracees.clear(); });
  capture.commit();
  return open_snapshot(path);
}

char* map(size_t size, int flags = MAP_PRIVATE | MAP_ANONYMOUS, int fd = -1) {
  void* area = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, 0);
  REQUIRE(area != MAP_FAILED);
  return static_cast<char*>(area);
}

std::string why_missing(const Snapshot& snapshot, const char* address) {
  return snapshot.missing_reason(snapshot.root(), reinterpret_cast<uint64_t>(address));
}

}  // namespace

TEST_CASE("every byte that can be read of the live process is the same in the snapshot") {
  const StoppedChild child([] {
    char* area = map(1024 * kPageSize);  // holes, zero pages, equal pages, touched pages
    for (int i = 0; i < 100; ++i) area[i * 7 * kPageSize] = static_cast<char>(i % 5);
    char* shared = map(16 * kPageSize, MAP_SHARED | MAP_ANONYMOUS);
    shared[3 * kPageSize] = 's';
    const int memfd = ::memfd_create("object", 0);
    REQUIRE(::ftruncate(memfd, 3 * kPageSize + 100) == 0);
    char* object = map(5 * kPageSize, MAP_SHARED, memfd);
    object[2 * kPageSize] = 'o';
    char* view = map(3 * kPageSize, MAP_PRIVATE, memfd);
    view[0] = 'v';
    const int self = ::open("/proc/self/exe", O_RDONLY);
    map(4 * kPageSize, MAP_PRIVATE, self)[kPageSize] = 'x';
    ::mprotect(map(kPageSize), kPageSize, PROT_NONE);
  });
  const auto snapshot = captured(child);
  const pb::Process& process = snapshot->root();
  const ProcDirectory proc = ProcDirectory::of(child.pid());
  const RemoteMemory live(leader_of(child.pid()), proc);
  size_t compared = 0;
  for (const ProcMapping& mapping : parse_mappings(proc.read("smaps"))) {
    CAPTURE(mapping.name, mapping.start);
    REQUIRE(snapshot->mapping(process, mapping.start) != nullptr);
    // What a sanitizer has for itself.
    if (mapping.has_flag("dd") || mapping.end - mapping.start > uint64_t{1} << 40) continue;
    for (uint64_t at = mapping.start; at < mapping.end; at += kPageSize) {
      std::array<std::byte, kPageSize> expected, got;
      const size_t readable = live.read(at, expected);
      const size_t captured_size = snapshot->read_memory(process, at, got);
      if (captured_size != readable || (readable && expected != got)) {
        CAPTURE(at, snapshot->missing_reason(process, at));
        REQUIRE(captured_size == readable);
        REQUIRE(expected == got);
      }
      compared += readable;
    }
  }
  CHECK(compared > size_t{2} << 20);
  CHECK(snapshot->record().missing().empty());
}

TEST_CASE("what the program keeps out of dumps stays out unless it is asked for") {
  static char* area = map(kPageSize);
  const StoppedChild child([] {
    area[0] = 's';
    ::madvise(area, kPageSize, MADV_DONTDUMP);
  });
  CHECK_THAT(why_missing(*captured(child), area), Contains("MADV_DONTDUMP"));
  CHECK(why_missing(*captured(child, {.memory = {.include_dontdump = true}}), area).empty());
}

TEST_CASE("memory beyond the end of a file is missing, not zero") {
  const int memfd = ::memfd_create("short", 0);
  REQUIRE(::ftruncate(memfd, 10) == 0);
  char* area = map(2 * kPageSize, MAP_SHARED, memfd);
  const StoppedChild child([] {});
  const auto snapshot = captured(child);
  CHECK(why_missing(*snapshot, area).empty());
  CHECK_THAT(why_missing(*snapshot, area + kPageSize), Contains("beyond the end"));
}

// Bytes of memory that a mapping takes up in all of them together.
uint64_t taken_up_by(const char* memory, std::initializer_list<Pid> processes) {
  uint64_t bytes = 0;
  for (const Pid pid : processes)
    for (const ProcMapping& mapping : parse_mappings(ProcDirectory::of(pid).read("smaps")))
      if (mapping.start <= reinterpret_cast<uint64_t>(memory) &&
          reinterpret_cast<uint64_t>(memory) < mapping.end)
        bytes += mapping.size(MappingSize::kPss);
  return bytes;
}

TEST_CASE("what a child has in common with its parent since fork(2) stays in common") {
  // Read while they are stopped, and copied before.
  const size_t size = GENERATE(size_t{2} << 20, size_t{32} << 20);
  CAPTURE(size);
  auto* child = reinterpret_cast<std::atomic<pid_t>*>(map(kPageSize, MAP_SHARED | MAP_ANONYMOUS));
  char* memory = map(size);
  const StoppedChild parent([&] {
    for (size_t i = 0; i < size; ++i) memory[i] = static_cast<char>(i * i >> 8);
    if (const pid_t pid = ::fork()) {
      *child = pid;
      return;
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (true) ::pause();
  });
  const uint64_t before = taken_up_by(memory, {parent.pid(), Pid{*child}});
  for (int i = 0; i < 2; ++i) {
    const auto snapshot = captured(parent);
    CHECK(snapshot->processes().size() == 2);
  }
  CHECK(taken_up_by(memory, {parent.pid(), Pid{*child}}) < before + size / 4);
}

TEST_CASE("looking at shared memory does not make the kernel allocate it") {
  constexpr size_t kSize = 512 * kPageSize;
  const int memfd = ::memfd_create("sparse", 0);
  REQUIRE(::ftruncate(memfd, kSize) == 0);
  char* area = map(kSize, MAP_SHARED, memfd);
  area[7 * kPageSize] = 1;
  const auto blocks = [&] {
    struct stat status {};
    ::fstat(memfd, &status);
    return status.st_blocks;
  };
  const auto before = blocks();
  const StoppedChild child([] {});
  const auto snapshot = captured(child);
  CHECK(blocks() == before);
  CHECK(why_missing(*snapshot, area).empty());
  ::close(memfd);
}

TEST_CASE("processes that share their memory have it once in the image") {
  const StoppedChild child([] {
    static char stack[65536];
    ::clone(
        [](void*) {
          while (true) ::pause();
          return 0;
        },
        stack + sizeof stack, CLONE_VM | SIGCHLD, nullptr);
  });
  const auto snapshot = captured(child);
  REQUIRE(snapshot->processes().size() == 2);
  CHECK(snapshot->processes()[0].address_space() == snapshot->processes()[1].address_space());
  ::kill(snapshot->processes()[1].pid(), SIGKILL);
}

TEST_CASE("descriptors that share an open file are told from those that merely look alike") {
  const StoppedChild child([] {
    const int one = ::open("/dev/null", O_RDONLY);
    ::dup2(one, 100);
    ::dup2(::open("/dev/null", O_RDONLY), 101);
    ::dup2(one, 102);
  });
  std::map<int, uint32_t> description;
  const auto snapshot = captured(child);
  for (const pb::Descriptor& descriptor : snapshot->root().descriptors())
    description[descriptor.number()] = descriptor.description();
  CHECK(description.at(100) == description.at(102));
  CHECK(description.at(100) != description.at(101));
}

TEST_CASE("a capture that fails leaves the tree running") {
  const StoppedChild child([] {});
  ::kill(child.pid().value, SIGCONT);
  const pid_t sleeper = ::fork();
  if (sleeper == 0)
    while (true) ::usleep(1000);
  Tracees tracees;
  CHECK_THROWS_WITH(
      [&] {
        Capture capture(OutputFile::create("/dev/full"), {});
        capture.take({Pid{sleeper}}, tracees, Moment{}, [&] { tracees.clear(); });
        capture.commit();
      }(),
      Contains("No space left"));
  tracees.clear();
  const ProcDirectory proc = ProcDirectory::of(Pid{sleeper});
  CHECK(ProcFields(proc.read("status")).number("TracerPid") == 0);
  CHECK(proc.stat().state != 't');
  ::kill(sleeper, SIGKILL);
  ::waitpid(sleeper, nullptr, 0);
}

TEST_CASE("pairs of keys and values are read in whatever spacing the kernel chose") {
  const auto pairs =
      key_value_pairs("tfd:        5 events:       19 data: ff  pos:0 ino:ab sdev:8");
  CHECK(pair_number(pairs, "tfd") == 5);
  CHECK(pair_number(pairs, "events", 16) == 0x19);
  CHECK(pair_number(pairs, "ino", 16) == 0xab);
  CHECK(pair_number(pairs, "sdev", 16) == 8);
  CHECK(pair_number(pairs, "none") == 0);
  CHECK(key_value_pairs("no colon").empty());
}

TEST_CASE("what only the process itself is told is in the snapshot: actions and timers") {
  const StoppedChild child([] {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    action.sa_flags = SA_NODEFER;
    ::sigaddset(&action.sa_mask, SIGUSR2);
    ::sigaction(SIGUSR1, &action, nullptr);
    timer_t timer{};
    ::timer_create(CLOCK_MONOTONIC, nullptr, &timer);
    const itimerspec hour{.it_interval = {7, 9}, .it_value = {3600, 0}};
    ::timer_settime(timer, 0, &hour, nullptr);
    const itimerval day{.it_interval = {}, .it_value = {86400, 0}};
    ::setitimer(ITIMER_REAL, &day, nullptr);
  });
  const auto snapshot = captured(child);
  const pb::Process& process = snapshot->root();
  CHECK(snapshot->record().missing().empty());
  const auto action = std::ranges::find_if(
      process.signal_actions(), [](const auto& each) { return each.signal() == SIGUSR1; });
  REQUIRE(action != process.signal_actions().end());
  CHECK((action->flags() & SA_NODEFER) != 0);
  CHECK(action->mask() == uint64_t{1} << (SIGUSR2 - 1));
  REQUIRE(process.timers_size() == 1);
  CHECK(process.timers(0).interval_ns() == 7'000'000'009);
  CHECK(process.timers(0).value_ns() > uint64_t{3000} * 1'000'000'000);
  REQUIRE(process.interval_timers_size() == 3);
  CHECK(process.interval_timers(ITIMER_REAL).value_ns() > uint64_t{80000} * 1'000'000'000);
}
