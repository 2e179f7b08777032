#pragma once

#include "core/linux/detour.h"

namespace snapgdb {

// A process that never runs, with a copy-on-write copy of another's address space: its memory stays
// as it was when the twin was made, while the program runs on. It is not a child of the program and
// holds none of its descriptors. What is shared (MAP_SHARED) or kept from forks (MADV_DONTFORK,
// MADV_WIPEONFORK) is not in it.
//
// It ends with us, however we end (PTRACE_O_EXITKILL).
class Twin {
 public:
  static constexpr size_t kScratch = 8 * 1024;

  // Preconditions: no Detour::obstacle(host, place, kScratch); no process that host descends from,
  // up to the roots of what is captured, adopts orphans (PR_SET_CHILD_SUBREAPER, or being the first
  // of a pid namespace): it would take notice. Throws Error if the kernel refuses it.
  // Takes as long as fork(2), 25 ms for a GiB of 4 KiB pages.
  Twin(Tracee& host, const Detour::Place& place);
  ~Twin();
  Twin(Twin&&) = default;
  Twin(const Twin&) = delete;

  Tid tid() const { return process_.tid(); }

 private:
  static Tracee make(Tracee& host, const Detour::Place& place);

  Tracee process_;
};

}  // namespace snapgdb
