#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "target.h"

// Memory of which not every page can simply be read.
namespace kinds {

constexpr size_t kPage = 4096, kHugePage = 2 << 20;
constexpr int kHugePageFlag = 21 << 26;  // MAP_HUGE_2MB, MFD_HUGE_2MB

// A run of pages of one sort.
struct Run {
  enum Holds {
    kPattern,      // its i-th word is mix(seed + i)
    kZeros,        // pages of zeros
    kNothing,      // no page is there, and reading gives zeros
    kGuard,        // MADV_GUARD_INSTALL: touching it is a fault
    kUndelivered,  // no page is there, and whoever touches it waits for our handler's pattern
  };
  std::string name;
  char* address = nullptr;
  size_t size = kPage;
  Holds holds = kPattern;
  uint64_t seed = 0;

  uint64_t* words() const { return reinterpret_cast<uint64_t*>(address); }
  void fill() const;
  bool has_pattern() const;
};

class Runs {
 public:
  // Writes the pattern, too.
  const Run& add_pattern(const std::string& name, char* address, size_t size = kPage);
  const Run& add(const std::string& name, char* address, size_t size, Run::Holds holds);
  const Run& find(const std::string& name) const;
  const std::deque<Run>& all() const { return runs_; }

  // "page NAME ADDRESS SEED", or a word in place of the seed, for the first and last page of each.
  void say() const;
  // Precondition: nothing has been touched yet since the end was waited for.
  void check_absent() const;
  void check_patterns() const;
  // The last thing to do with them: zeros take pages, too.
  void check_zeros() const;
  void check_guards() const;

 private:
  std::deque<Run> runs_;  // whose members stay where they are
  const uint64_t seed_ = target::now_ns();
};

// nullptr: the machine lacks it, which is said. Otherwise memory that is readable and writable.
char* try_map(const std::string& what, size_t size, int flags, int fd = -1,
              void* address = nullptr);
char* map(size_t size, int flags, int fd = -1);
void passed_over(const std::string& what);
// Whether writing there is a SIGSEGV.
bool faults(char* address);

// What madvise(2), mprotect(2) and the flags of mmap(2) make of it.
void set_up_anonymous(Runs& runs);
void set_up_guards(Runs& runs);
void set_up_huge(Runs& runs);
// Room below it is kept free for a mapping that grows downwards, so this comes last.
void set_up_growing(Runs& runs);
// So much private memory, with a guard page and a hole in it.
void set_up_ballast(Runs& runs, size_t mebibytes);
void check_growing(const Runs& runs);
// Forks, and looks in the child.
void check_fork(const Runs& runs);

// A userfaultfd of the program's own, with a thread that serves it.
class Userfault {
 public:
  // told_of_forks: with UFFD_FEATURE_EVENT_FORK, which needs CAP_SYS_PTRACE.
  Userfault(Runs& runs, bool with_huge_pages, bool told_of_forks);
  ~Userfault();

  // That nobody but the program itself has touched anything, and that everything goes on.
  void check();
  // After the program forked by itself.
  void check_told_of_fork();

 private:
  bool open(bool told_of_forks);
  // Registers the range. False: it cannot be, which is said.
  bool watch(const std::string& what, char* address, size_t size, uint64_t mode);
  void protect(char* address, bool on) const;
  // Memory that the handler will fill when it is asked, and memory that is there at once.
  const Run& serve_later(const std::string& name, char* address, size_t size = kPage);
  void deliver(const std::string& name, char* address, size_t size = kPage);
  void copy(const Run& run) const;

  void set_up_anonymous();
  void set_up_object(const std::string& name, int flags, int fd, size_t page);
  void set_up_protected();
  void set_up_both();
  void make_a_thread_wait();

  void handle();
  void handle_fault(uint64_t address, uint64_t flags);

  Runs& runs_;
  std::vector<const Run*> served_;
  const Run* waited_for_ = nullptr;  // held back until the end
  const Run* protected_ = nullptr;   // of its two pages, the first
  int fd_ = -1, end_ = -1;
  uint64_t features_ = 0;
  std::atomic<uint64_t> asked_{0}, held_back_{0}, unprotected_{0}, forks_{0};
  std::atomic<uint64_t> first_word_{0};  // that the waiting thread got
  std::unique_ptr<target::Thread> handler_, waiter_;
};

}  // namespace kinds
