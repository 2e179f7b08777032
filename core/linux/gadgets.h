#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <tuple>
#include <vector>

#include "core/base/ids.h"
#include "core/linux/procfs.h"

namespace snapgdb {

// Addresses in a process's own code through which it can be made to perform system calls: nothing
// has to be put into it that it would have to get rid of again. 0: there is none.
struct Gadgets {
  uint64_t syscall_return = 0;  // syscall; ret
  uint64_t sigreturn = 0;       // mov $15, %eax (or %rax); syscall
  // With these, several calls can follow each other without a stop or a signal frame in between.
  uint64_t pop_rax = 0, pop_rdi = 0, pop_rsi = 0, pop_rdx = 0;  // pop; ret
  uint64_t pop_rdx_rbx = 0;                                     // pop %rdx; pop %rbx; ret
  uint64_t store_eax_at_rdx = 0;                                // mov %eax, (%rdx); ret

  bool suffice() const { return syscall_return && (sigreturn || pop_rax); }
  bool can_chain() const {
    return suffice() && pop_rax && pop_rdi && pop_rsi && (pop_rdx || pop_rdx_rbx) &&
           store_eax_at_rdx;
  }
};

// The first is in every C library (getpid(2)'s wrapper) and in Go's runtime, and so is the second
// (the return of a signal handler), but in static programs that handle no signals; the others are
// so short that they occur in any large program, if only as parts of longer instructions. What was
// found in a file once is remembered.
class GadgetFinder {
 public:
  // nullopt: this program has no such code.
  std::optional<Gadgets> find(Tid tid, const std::vector<ProcMapping>& mappings);
  // Whether the code still stands there.
  static bool verify(Tid tid, const Gadgets& gadgets);

 private:
  using Key = std::tuple<uint32_t, uint32_t, uint64_t, uint64_t>;  // device, inode, offset

  const Gadgets& search(Tid tid, const ProcMapping& mapping);

  std::map<Key, Gadgets> known_;  // offsets from the start of the mapping, plus 1
};

}  // namespace snapgdb
