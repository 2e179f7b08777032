#pragma once

#include <sched.h>

#include <functional>
#include <span>

#include "core/linux/detour.h"

namespace snapgdb {

// A list of system calls for a transient thread inside a process: it shares memory, signal actions
// and timers with the program, but has a descriptor table of its own, which begins empty. The
// thread works its signal frames off by itself and exits, whatever becomes of us: nothing of it
// stays behind.
class Visitor {
 public:
  // Memory for results and arguments, and for many calls.
  static constexpr size_t kScratch = 48 * 1024;

  // Preconditions: no Detour::obstacle(host); place.has_room_for(kScratch).
  Visitor(Tracee& host, const Detour::Place& place) : detour_(host, place, kScratch) {}

  // Bytes of the process's memory, zeros at first.
  uint64_t reserve(size_t bytes);
  // Its result is lost: what is of interest has to be written to memory.
  void call(long number, const SystemCallArguments& arguments = {}) {
    calls_.push_back({number, arguments});
  }

  // Performs the calls. `at_end` sees the thread when it has done the last one and still has its
  // descriptors. Throws SystemError EINVAL where the process may have no further threads (after
  // unshare(CLONE_NEWPID)).
  using AtEnd = std::function<void(Tid)>;
  void run(const AtEnd& at_end);
  void read(uint64_t address, std::span<std::byte> out) { detour_.read(address, out); }
  // What the destructor does, for those who want to know whether it worked.
  void leave() { detour_.go_home(); }

 private:
  Detour detour_;
  std::vector<std::byte> reserved_;
  std::vector<SystemCall> calls_;
};

// clone(2)'s flags for such a thread. Not CLONE_FILES: what it opens must not show up among the
// program's descriptors.
inline constexpr uint64_t kVisitorThread =
    CLONE_VM | CLONE_SIGHAND | CLONE_THREAD | CLONE_FS | CLONE_SYSVSEM;
// Its copies of the program's descriptors go first: they would keep pipes open.
inline constexpr long kCloseRange = 436;  // SYS_close_range, Linux 5.9

}  // namespace snapgdb
