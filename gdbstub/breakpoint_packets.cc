#include <algorithm>

#include "gdbstub/handlers.h"
#include "gdbstub/run_control.h"

namespace snapgdb::gdbstub {
namespace {

// "0,ADDRESS,SIZE", perhaps with conditions behind a ';', which only a client sends that was told
// that we know them.
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
  arguments.expect_end();
  return parsed;
}

}  // namespace

// "": what the processor cannot do. gdb then does without where it can.
Reply insert_breakpoint(SessionState& state, Scanner arguments) {
  const Breakpoint breakpoint = parse_breakpoint(arguments);
  return insert(state, state.selected_thread().pid, breakpoint) ? "OK" : "";
}

Reply remove_breakpoint(SessionState& state, Scanner arguments) {
  const Breakpoint breakpoint = parse_breakpoint(arguments);
  remove(state, state.selected_thread().pid, breakpoint);
  return "OK";
}

}  // namespace snapgdb::gdbstub
