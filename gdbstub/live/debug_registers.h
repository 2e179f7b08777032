#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "gdbstub/running_target.h"

namespace snapgdb::gdbstub {

// What a process's threads have in their debug registers, so that the processor stops them at
// addresses (Intel SDM vol. 3, 18.2): four, each of 1, 2, 4 or 8 bytes at a multiple of that.
class DebugRegisters {
 public:
  static constexpr int kAddresses = 4, kStatus = 6, kControl = 7;  // DR0 to DR3, DR6, DR7

  // False: there is no room, or the processor has nothing of that kind (reading alone).
  bool insert(const Breakpoint& breakpoint);
  void remove(const Breakpoint& breakpoint);
  bool empty() const;

  // What belongs into DR0 to DR3, and into DR7.
  std::array<uint64_t, kAddresses> addresses() const;
  uint64_t control() const;
  // What DR6 says has been met: the breakpoint, and where. nullopt: none of these.
  struct Met {
    BreakpointKind kind;
    uint64_t address;
  };
  std::optional<Met> met(uint64_t status) const;

  // Where they stop nobody (debug_registers_stop()), threads that are watched go step by step, and
  // what is watched is compared after each. `read`: as Target::read_memory(). Writes that change
  // nothing are not met then.
  using Read = std::function<size_t(uint64_t address, std::span<std::byte> out)>;
  bool watches_memory() const;
  std::optional<Met> changed(const Read& read);
  // What is there now has been written by the client, or was there before it was watched.
  void take_note(const Read& read, uint64_t address, uint64_t size);

 private:
  struct Slot {
    BreakpointKind kind;
    uint64_t address, size;
    int users = 0;
    std::optional<std::vector<std::byte>> content = {};  // when it was compared last
  };
  std::array<std::optional<Slot>, kAddresses> slots_;

  static std::vector<Slot> pieces(const Breakpoint& breakpoint);
  std::optional<Slot>* find(const Slot& piece);
};

}  // namespace snapgdb::gdbstub
