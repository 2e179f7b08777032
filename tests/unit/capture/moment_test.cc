#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/filter.h>
#include <linux/seccomp.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "core/capture.h"
#include "core/image/image_reader.h"
#include "tests/unit/image/sample_image.h"

using namespace snapgdb;
using namespace snapgdb::test;

namespace {

// Writes 1, 2, 3, … into page after page, round and round: at any moment, the numbers of all pages
// are consecutive ones, the highest where it wrote last. What was put together from several moments
// has gaps.
class Counter {
 public:
  struct Options {
    size_t pages;
    unsigned pause_us;           // between two writes; 0: as fast as it can
    bool seccomp = false;        // then nothing can be done inside
    size_t wavering = 0;         // bytes that forks may inherit one moment, and not the next
    bool own_userfault = false;  // then no first copies are made
    bool may_not_fork = false;   // two tasks are all it may have, as where memory is accounted for
                                 // strictly: there is no room for a twin
  };

  explicit Counter(const Options& options) : pages_(options.pages) {
    memory_ = ::mmap(nullptr, pages_ * kPageSize, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory_ != MAP_FAILED);
    if (options.wavering) {
      wavering_ = ::mmap(nullptr, options.wavering, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      REQUIRE(wavering_ != MAP_FAILED);
      std::memset(wavering_, 1, options.wavering);
    }
    int ready[2];
    REQUIRE(::pipe(ready) == 0);
    pid_ = ::fork();
    if (pid_ == 0) count(options, ready[1]);
    char byte = 0;
    REQUIRE(::read(ready[0], &byte, 1) == 1);
    ::close(ready[0]), ::close(ready[1]);
  }
  ~Counter() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    ::munmap(memory_, pages_ * kPageSize);
  }

  Pid pid() const { return Pid{pid_}; }
  uint64_t wavering() const { return reinterpret_cast<uint64_t>(wavering_); }
  bool runs() const { return ::waitpid(pid_, nullptr, WNOHANG) == 0; }

  void check(const Snapshot& snapshot) const {
    std::vector<uint64_t> numbers;
    for (size_t i = 0; i < pages_; ++i) {
      uint64_t number = 0;
      const uint64_t address = reinterpret_cast<uint64_t>(memory_) + i * kPageSize;
      const auto out = std::as_writable_bytes(std::span(&number, 1));
      REQUIRE(snapshot.read_memory(snapshot.root(), address, out) == out.size());
      numbers.push_back(number);
    }
    const auto newest = std::ranges::max_element(numbers);
    std::ranges::rotate(numbers, newest + 1);
    size_t gaps = 0;
    for (size_t i = 1; i < numbers.size(); ++i) gaps += numbers[i] != numbers[i - 1] + 1;
    CHECK(gaps == 0);
  }

 private:
  [[noreturn]] void count(const Options& options, int ready) const {
    auto* words = static_cast<volatile uint64_t*>(memory_);
    constexpr size_t kWords = kPageSize / sizeof(uint64_t);
    uint64_t number = 0;
    for (size_t i = 0; i < pages_; ++i) {
      for (size_t word = 1; word < kWords; ++word) words[i * kWords + word] = i * word + 1;
      words[i * kWords] = ++number;
    }
    if (options.seccomp) forbid_nothing();
    constexpr int kUserModeOnly = 1;  // include/uapi/linux/userfaultfd.h
    if (options.own_userfault && ::syscall(SYS_userfaultfd, kUserModeOnly) < 0) ::_exit(1);
    if (options.may_not_fork) allow_two_tasks();
    if (::write(ready, "r", 1) != 1) ::_exit(1);
    for (size_t i = 0;; i = (i + 1) % pages_) {
      words[i * kWords] = ++number;
      if (options.pause_us) ::usleep(options.pause_us);
      if (options.wavering && i % 256 == 0)
        ::madvise(wavering_, options.wavering, i % 512 ? MADV_WIPEONFORK : MADV_KEEPONFORK);
    }
  }
  static void forbid_nothing() {
    sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    const sock_fprog program{1, allow};
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) ::_exit(1);
  }

  // To root they are no limit.
  static void allow_two_tasks() {
    constexpr uid_t kNobodyElse = 54321;
    constexpr rlimit kTwo{2, 2};
    if (::setresuid(kNobodyElse, kNobodyElse, kNobodyElse) != 0 ||
        ::setrlimit(RLIMIT_NPROC, &kTwo) != 0)
      ::_exit(1);
  }

  size_t pages_;
  void* memory_;
  void* wavering_ = nullptr;
  pid_t pid_ = 0;
};

std::shared_ptr<const Snapshot> captured(const Counter& counter) {
  static const TemporaryDirectory directory;
  const std::string path = directory.file("x.snapgdb");
  Capture capture(OutputFile::create(path), {});
  Tracees tracees;
  capture.take({counter.pid()}, tracees, Moment{}, [&] { tracees.clear(); });
  capture.commit();
  return open_snapshot(path);
}

constexpr size_t kLarge = 16 * 1024;  // pages: 64 MiB

}  // namespace

TEST_CASE("memory is of one moment, however it was secured") {
  struct Case {
    const char* method;
    Counter::Options options;
  };
  const Case tried = GENERATE(values<Case>({
      {"", {.pages = 64, .pause_us = 0}},  // too little to be worth anything but reading it
      {"pre-copy", {.pages = kLarge, .pause_us = 50}},
      {"twin", {.pages = kLarge, .pause_us = 0, .own_userfault = true}},
      {"stop-copy", {.pages = 2 * kLarge, .pause_us = 0, .seccomp = true}},
  }));
  CAPTURE(tried.method);
  const Counter counter(tried.options);
  for (int round = 0; round < 3; ++round) {
    const auto snapshot = captured(counter);
    counter.check(*snapshot);
    // How far first copies get before the rest is secured depends on the machine.
    if (*tried.method)
      CHECK(snapshot->record().memory_method().find(tried.method) != std::string::npos);
    CHECK(counter.runs());
  }
}

TEST_CASE("memory is of one moment where no twin can be made, and it is said why") {
  if (::geteuid() != 0) {
    WARN("passed over: only root can run a program as somebody else");
    return;
  }
  const Counter counter(
      {.pages = 2 * kLarge, .pause_us = 0, .own_userfault = true, .may_not_fork = true});
  const auto snapshot = captured(counter);
  counter.check(*snapshot);
  CHECK(snapshot->record().memory_method() == "stop-copy");
  const pb::AddressSpace& space = snapshot->address_space(snapshot->root());
  CHECK(space.why_not_better().find("no twin") != std::string::npos);
  CHECK(counter.runs());
}

TEST_CASE("what a program asks to be wiped in forks is in its snapshot, or missing, never zeros") {
  constexpr size_t kWavering = 16 * kPageSize;
  const Counter counter(
      {.pages = kLarge / 4, .pause_us = 0, .wavering = kWavering, .own_userfault = true});
  for (int round = 0; round < 20; ++round) {
    const auto snapshot = captured(counter);
    CHECK(snapshot->record().memory_method() == "twin");
    std::vector<uint64_t> words(kWavering / sizeof(uint64_t), 1);
    const auto bytes = std::as_writable_bytes(std::span(words));
    snapshot->read_memory(snapshot->root(), counter.wavering(), bytes);
    CHECK(std::ranges::count(words, 0u) == 0);
  }
}
