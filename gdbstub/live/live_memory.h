#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "core/linux/remote_memory.h"
#include "gdbstub/agent_expression.h"
#include "gdbstub/running_target.h"

namespace snapgdb::gdbstub {

// The memory of a living process, with software breakpoints in it that nobody sees who reads it
// here. One for each address space.
class LiveMemory {
 public:
  // Throws SystemError.
  explicit LiveMemory(Tid tid);
  // That of a child after fork(2): a copy of this one, breakpoints included.
  std::unique_ptr<LiveMemory> of_child(Tid tid) const;

  size_t read(uint64_t address, std::span<std::byte> out) const;
  // All or (false) nothing. Also where the program itself may not write.
  bool write(uint64_t address, std::span<const std::byte> bytes);

  // False: there is no memory. A second one of that kind takes the place of the first. `kind`: also
  // kHardware, where the processor has none.
  bool insert(uint64_t address, AgentCode code, BreakpointKind kind = BreakpointKind::kSoftware);
  // False: the memory is gone, and the breakpoint with it.
  bool remove(uint64_t address, BreakpointKind kind = BreakpointKind::kSoftware);
  void remove_all();
  // What is to be done at the breakpoints there, by kind; nullptr: there is none.
  using Codes = std::map<BreakpointKind, AgentCode>;
  const Codes* breakpoints(uint64_t address) const;
  // One that a thread may have met before it was removed: the program has none there.
  bool was_breakpoint(uint64_t address) const;
  // For one instruction, the program's own is there. Precondition: there is a breakpoint.
  void uncover(uint64_t address);
  void cover(uint64_t address);
  void uncover_all();
  void cover_all();

 private:
  struct Site {
    std::byte original;
    Codes codes;
  };
  bool put(uint64_t address, std::span<const std::byte> bytes);

  RemoteMemory memory_;
  Fd writable_;
  std::map<uint64_t, Site> sites_;
  std::set<uint64_t> removed_;  // places of former ones
};

}  // namespace snapgdb::gdbstub
