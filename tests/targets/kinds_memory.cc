#include <setjmp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "kinds.h"

namespace kinds {
namespace {

using target::differs;
using target::setup;

constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;
constexpr int kGuardInstall = 102;  // MADV_GUARD_INSTALL, Linux 6.13
constexpr int kPageOut = 21;        // MADV_PAGEOUT
// Below it a mapping that grows downwards keeps its distance from others, 1 MiB.
constexpr size_t kRoomToGrow = 3 << 20;

}  // namespace

void passed_over(const std::string& what) {
  target::say("passed over %s: %s", what.c_str(), strerror(errno));
}

char* try_map(const std::string& what, size_t size, int flags, int fd, void* address) {
  void* memory = mmap(address, size, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (memory != MAP_FAILED) return static_cast<char*>(memory);
  passed_over(what);
  return nullptr;
}

char* map(size_t size, int flags, int fd) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (memory == MAP_FAILED) target::cannot("mmap");
  return static_cast<char*>(memory);
}

// ---- Runs -----------------------------------------------------------------------------------

void Run::fill() const {
  for (size_t i = 0; i < size / 8; ++i) words()[i] = target::mix(seed + i);
}

bool Run::has_pattern() const {
  for (size_t i = 0; i < size / 8; ++i) {
    if (words()[i] == target::mix(seed + i)) continue;
    differs("%s: word %zu is 0x%lx, should be 0x%lx", name.c_str(), i, words()[i],
            target::mix(seed + i));
    return false;
  }
  return true;
}

const Run& Runs::add(const std::string& name, char* address, size_t size, Run::Holds holds) {
  // No word of one run stands in another.
  return runs_.emplace_back(name, address, size, holds, seed_ + (runs_.size() << 40));
}

const Run& Runs::add_pattern(const std::string& name, char* address, size_t size) {
  const Run& run = add(name, address, size, Run::kPattern);
  run.fill();
  return run;
}

const Run& Runs::find(const std::string& name) const {
  const auto found = std::find_if(runs_.begin(), runs_.end(),
                                  [&name](const Run& run) { return run.name == name; });
  if (found == runs_.end()) target::cannot(name.c_str());
  return *found;
}

void Runs::say() const {
  static constexpr const char* kWords[] = {"", "zero", "zero", "guard", "undelivered"};
  for (const Run& run : runs_) {
    for (size_t at = 0; at < run.size; at += std::max(run.size - kPage, kPage)) {
      const std::string seed =
          run.holds == Run::kPattern ? std::to_string(run.seed + at / 8) : kWords[run.holds];
      target::say("page %s 0x%lx %s", run.name.c_str(),
                  reinterpret_cast<unsigned long>(run.address + at), seed.c_str());
    }
  }
}

void Runs::check_absent() const {
  for (const Run& run : runs_) {
    if (run.holds != Run::kNothing && run.holds != Run::kUndelivered) continue;
    for (size_t at = 0; at < run.size; at += kPage) {
      unsigned char present = 0;
      target::expect_call("mincore", mincore(run.address + at, kPage, &present));
      if (present & 1) return differs("%s: a page has appeared", run.name.c_str());
    }
  }
}

void Runs::check_patterns() const {
  for (const Run& run : runs_) {
    if (run.holds != Run::kPattern) continue;
    const bool hidden = run.name == "not-accessible";
    if (hidden) target::expect_call("mprotect", mprotect(run.address, run.size, PROT_READ));
    run.has_pattern();
  }
}

void Runs::check_zeros() const {
  for (const Run& run : runs_) {
    if (run.holds != Run::kZeros && run.holds != Run::kNothing) continue;
    const auto* end = run.words() + run.size / 8;
    if (std::any_of(run.words(), const_cast<uint64_t*>(end), [](uint64_t word) { return word; }))
      differs("%s is not zero", run.name.c_str());
  }
}

void Runs::check_guards() const {
  for (const Run& run : runs_) {
    if (run.holds == Run::kGuard && !faults(run.address))
      differs("%s can be written to", run.name.c_str());
  }
}

// ---- Faults ---------------------------------------------------------------------------------
namespace {

sigjmp_buf before_fault;
void* volatile fault_address;

void on_fault(int, siginfo_t* info, void*) {
  fault_address = info->si_addr;
  siglongjmp(before_fault, 1);
}

}  // namespace

bool faults(char* address) {
  struct sigaction action {
  }, before{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  setup("sigaction", sigaction(SIGSEGV, &action, &before));
  fault_address = nullptr;
  if (sigsetjmp(before_fault, 1) == 0) *static_cast<volatile char*>(address) = 1;
  setup("sigaction", sigaction(SIGSEGV, &before, nullptr));
  return fault_address == address;
}

// ---- Kinds ----------------------------------------------------------------------------------
namespace {

// The first of `places` that is free.
char* map_at(const std::string& what, std::initializer_list<uintptr_t> places) {
  for (const uintptr_t place : places) {
    void* memory = mmap(reinterpret_cast<void*>(place), kPage, PROT_READ | PROT_WRITE,
                        kAnonymous | MAP_FIXED_NOREPLACE, -1, 0);
    if (memory != MAP_FAILED) return static_cast<char*>(memory);
  }
  passed_over(what);
  return nullptr;
}

void set_up_advised(Runs& runs) {
  const struct {
    const char* name;
    int advice;
  } kinds[] = {{"not-inherited", MADV_DONTFORK},
               {"wiped-on-fork", MADV_WIPEONFORK},
               {"paged-out", kPageOut}};  // where there is swap space
  for (const auto& kind : kinds) {
    const Run& run = runs.add_pattern(kind.name, map(2 * kPage, kAnonymous), 2 * kPage);
    setup(kind.name, madvise(run.address, run.size, kind.advice));
  }
}

}  // namespace

void set_up_anonymous(Runs& runs) {
  char* three = map(3 * kPage, kAnonymous);
  runs.add("before-the-only-one", three, kPage, Run::kNothing);
  runs.add_pattern("only-one", three + kPage);
  runs.add("behind-the-only-one", three + 2 * kPage, kPage, Run::kNothing);

  char* read = map(kPage, kAnonymous);
  runs.add("only-ever-read", read, kPage, Run::kZeros);
  if (*static_cast<volatile char*>(read)) differs("new memory is not zero");

  set_up_advised(runs);
  const Run& hidden = runs.add_pattern("not-accessible", map(2 * kPage, kAnonymous), 2 * kPage);
  setup("mprotect", mprotect(hidden.address, hidden.size, PROT_NONE));

  // The last pages below the ends of 56 and 47 bits, for a processor with five or four levels of
  // page tables; then lower, should the stack be there.
  if (char* high = map_at("a high address", {0xff'ffff'ffff'd000, 0x7fff'ffff'e000,
                                             0x7fff'fffe'0000, 0x7fff'fff0'0000}))
    runs.add_pattern("high", high);
  // Lowest of all is what vm.mmap_min_addr permits: one page, or 64 KiB.
  if (char* low = map_at("a low address", {0x1000, 0x10000, 0x11000})) runs.add_pattern("low", low);
}

namespace {

// The middle one of five pages becomes a guard; the one before has never been touched.
void guard_the_middle(Runs& runs, const std::string& of, char* five) {
  runs.add_pattern(of + "-before-guard", five);
  runs.add(of + "-hole-at-guard", five + kPage, kPage, Run::kNothing);
  five[2 * kPage] = 'x';  // which the guard takes away
  runs.add_pattern(of + "-behind-guard", five + 3 * kPage, 2 * kPage);
  if (madvise(five + 2 * kPage, kPage, kGuardInstall) != 0)
    return passed_over("a guard of " + of + " memory");
  runs.add(of + "-guard", five + 2 * kPage, kPage, Run::kGuard);
}

}  // namespace

void set_up_guards(Runs& runs) {
  guard_the_middle(runs, "private", map(5 * kPage, kAnonymous));
  // Of shared memory since Linux 6.15: the page behind the guard is still in its file.
  guard_the_middle(runs, "shared", map(5 * kPage, MAP_SHARED | MAP_ANONYMOUS));
}

// The second of two huge pages is never touched.
void set_up_huge(Runs& runs) {
  constexpr int kHuge = MAP_HUGETLB | kHugePageFlag;
  const auto add = [&](const char* name, const char* hole, int flags) {
    char* two = try_map(name, 2 * kHugePage, flags | MAP_ANONYMOUS | kHuge);
    if (!two) return;
    runs.add_pattern(name, two, kHugePage);
    runs.add(hole, two + kHugePage, kHugePage, Run::kNothing);
  };
  add("hugetlb-private", "hugetlb-private-hole", MAP_PRIVATE);
  add("hugetlb-shared", "hugetlb-shared-hole", MAP_SHARED);

  const int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | kHugePageFlag);
  if (fd < 0) return passed_over("a file of huge pages");
  setup("ftruncate", ftruncate(fd, 3 * kHugePage));
  char* file = try_map("a file of huge pages", 3 * kHugePage, MAP_SHARED, fd);
  char* view = file ? try_map("a view of it", 3 * kHugePage, MAP_PRIVATE, fd) : nullptr;
  close(fd);
  if (!view) return;
  const Run& first = runs.add_pattern("hugetlb-file", file, kHugePage);
  munmap(file, 3 * kHugePage);
  const_cast<Run&>(first).address = view;
  runs.add_pattern("hugetlb-file-modified", view + kHugePage, kHugePage);
  runs.add("hugetlb-file-hole", view + 2 * kHugePage, kHugePage, Run::kNothing);
}

void set_up_growing(Runs& runs) {
  constexpr size_t kTop = 2 * kPage;
  char* room = map(kRoomToGrow, kAnonymous);
  munmap(room, kRoomToGrow);
  char* top =
      try_map("a mapping that grows downwards", kTop,
              kAnonymous | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, room + kRoomToGrow - kTop);
  if (!top) return;
  runs.add_pattern("growing", top + kPage);
  runs.add("growing-hole", top, kPage, Run::kNothing);
}

void check_growing(const Runs& runs) {
  char* below = runs.find("growing-hole").address - 3 * kPage;
  if (faults(below)) differs("a mapping that grows downwards does not grow any more");
}

void set_up_ballast(Runs& runs, size_t mebibytes) {
  const size_t size = mebibytes << 20, half = size / 2;
  if (size == 0) return;
  char* memory = map(size, kAnonymous);
  setup("madvise", madvise(memory, size, MADV_NOHUGEPAGE));
  const Run& whole = runs.add_pattern("ballast-low", memory, half);
  runs.add_pattern("ballast-high", memory + half + 2 * kPage, size - half - 2 * kPage);
  runs.add("ballast-hole", whole.address + half, kPage, Run::kNothing);
  if (madvise(memory + half + kPage, kPage, kGuardInstall) == 0)
    runs.add("ballast-guard", memory + half + kPage, kPage, Run::kGuard);
}

void check_fork(const Runs& runs) {
  const pid_t child = setup("fork", fork());
  if (child > 0) return target::expect_success_of(child);
  unsigned char present;
  const Run& absent = runs.find("not-inherited");
  if (mincore(absent.address, kPage, &present) == 0 || errno != ENOMEM)
    differs("the child has inherited what it should not");
  const Run& wiped = runs.find("wiped-on-fork");
  if (wiped.words()[0] || wiped.words()[kPage / 8]) differs("what should be wiped is not");
  runs.find("only-one").has_pattern();
  _exit(target::verdict());
}

}  // namespace kinds
