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
// has to be put into it that it would have to get rid of again.
struct Gadgets {
  uint64_t syscall_return = 0;  // syscall; ret
  uint64_t sigreturn = 0;       // mov $15, %eax (or %rax); syscall
};

// Both are in every C library (getpid(2)'s wrapper, the return of a signal handler) and in Go's
// runtime. What was found in a file once is remembered.
class GadgetFinder {
 public:
  // nullopt: this program has no such code.
  std::optional<Gadgets> find(Tid tid, const std::vector<ProcMapping>& mappings);
  // Whether the code still stands there.
  static bool verify(Tid tid, const Gadgets& gadgets);

 private:
  struct Offsets {
    std::optional<uint64_t> syscall_return, sigreturn;  // from the start of the mapping
  };
  using Key = std::tuple<uint32_t, uint32_t, uint64_t, uint64_t>;  // device, inode, offset

  const Offsets& search(Tid tid, const ProcMapping& mapping);

  std::map<Key, Offsets> known_;
};

}  // namespace snapgdb
