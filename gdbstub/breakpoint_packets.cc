#include <algorithm>

#include "gdbstub/handlers.h"
#include "gdbstub/run_control.h"

namespace snapgdb::gdbstub {
namespace {

// ";X5,2200270000", perhaps several of them; then perhaps "cmds:0,X…" (after the colon: whether
// they are to be performed also when nobody is connected).
AgentCode parse_code(Scanner& arguments) {
  AgentCode code;
  std::vector<std::string>* into = &code.conditions;
  while (arguments.skip(';') || !arguments.at_end()) {
    if (arguments.skip("cmds:")) {
      into = &code.commands;
      arguments.hex();
      arguments.expect(',');
    }
    arguments.expect('X');
    const uint64_t size = arguments.hex();
    arguments.expect(',');
    into->push_back(arguments.hex_bytes(size));
  }
  return code;
}

// "0,ADDRESS,SIZE", perhaps with conditions and commands behind it.
Breakpoint parse_breakpoint(Scanner& arguments) {
  Breakpoint parsed;
  const uint64_t kind = arguments.hex();
  if (kind > static_cast<uint64_t>(BreakpointKind::kAccess))
    throw PacketError{kMalformed, "there is no such kind of breakpoint"};
  parsed.kind = static_cast<BreakpointKind>(kind);
  arguments.expect(',');
  parsed.address = arguments.hex();
  arguments.expect(',');
  parsed.size = arguments.hex();
  parsed.code = parse_code(arguments);
  if (!parsed.code.commands.empty() && parsed.kind != BreakpointKind::kSoftware)
    throw PacketError{kCannot, "only software breakpoints have commands"};
  return parsed;
}

// Of four, each watches up to eight bytes that begin at a multiple of eight.
uint64_t debug_registers(const Breakpoint& breakpoint) {
  constexpr uint64_t kWidth = 8;
  if (breakpoint.kind == BreakpointKind::kSoftware) return 0;
  if (breakpoint.kind == BreakpointKind::kHardware || breakpoint.size == 0) return 1;
  return (breakpoint.address % kWidth + std::min(breakpoint.size, 64 * kWidth) + kWidth - 1) /
         kWidth;
}

void require_debug_registers(const std::vector<Breakpoint>& list, const Breakpoint& more) {
  constexpr uint64_t kThereAre = 4;
  uint64_t needed = debug_registers(more);
  if (needed == 0) return;
  for (const Breakpoint& each : list) needed += debug_registers(each);
  if (needed > kThereAre)
    throw PacketError{kCannot, "the processor's four debug registers do not suffice for it"};
}

// False: the memory that it was in is gone.
bool remove(SessionState& state, Pid pid, const Breakpoint& breakpoint) {
  const auto same = [&](const Breakpoint& old) { return old.is(breakpoint); };
  if (std::erase_if(state.running.breakpoints[pid], same) == 0) return true;
  return !state.running.tree() || state.running.tree()->remove(pid, breakpoint);
}

// What gdb keeps in a library that is not loaded yet, in the snapshot, would be in the way when it
// is to run; told of it now, gdb sets it aside until the library is there. After `run`, it does not
// know yet which program is there.
bool can_be_inserted(SessionState& state, Pid pid, const Breakpoint& breakpoint) {
  if (RunningTarget* tree = state.running.tree()) return tree->insert(pid, breakpoint);
  return state.running.arrived || has_place_for(state, pid, breakpoint);
}

void insert(SessionState& state, Pid pid, const Breakpoint& breakpoint) {
  remove(state, pid, breakpoint);  // with other conditions, perhaps
  auto& list = state.running.breakpoints[pid];
  require_debug_registers(list, breakpoint);
  if (!can_be_inserted(state, pid, breakpoint))
    throw PacketError{kCannot, std::string(obstacle_to(breakpoint))};
  list.push_back(breakpoint);
}

}  // namespace

// "": what x86 does not have. gdb does without it then, for good: it is no answer to what fails.
Reply insert_breakpoint(SessionState& state, Scanner arguments) {
  const Breakpoint breakpoint = parse_breakpoint(arguments);
  if (breakpoint.kind == BreakpointKind::kRead) return "";
  insert(state, state.selected_process(), breakpoint);
  return "OK";
}

Reply remove_breakpoint(SessionState& state, Scanner arguments) {
  const Breakpoint breakpoint = parse_breakpoint(arguments);
  if (!remove(state, state.selected_process(), breakpoint))
    throw PacketError{kCannot, "the memory that the breakpoint was in is gone"};
  return "OK";
}

}  // namespace snapgdb::gdbstub
