#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gdbstub/target.h"

namespace snapgdb::gdbstub {

// What a client wants done where a breakpoint is, in bytecode.
struct AgentCode {
  // It is reached if one of them is not zero, or if there is none.
  std::vector<std::string> conditions = {};
  // Performed there; then the thread goes on, and nothing is reported.
  std::vector<std::string> commands = {};
};

// gdb's bytecode for agents ("The GDB Agent Expression Mechanism" of its manual), in which it sends
// the conditions of breakpoints. Returns what is on top of the stack in the end; nullopt: it cannot
// be evaluated (unknown code, memory or a register that is not there, a division by zero, no end).
std::optional<int64_t> evaluate(std::string_view bytecode, const Target& target, ThreadId thread);

// Whether a breakpoint with this condition is to be reported. One that cannot be evaluated is, so
// that the user gets to see it.
bool holds(std::string_view bytecode, const Target& target, ThreadId thread);

// What a command prints (dprintf-style agent). One that cannot be performed to its end says so.
std::string perform(std::string_view bytecode, const Target& target, ThreadId thread);

}  // namespace snapgdb::gdbstub
