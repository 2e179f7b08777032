#include <fmt/format.h>

#include "gdbstub/handlers.h"
#include "gdbstub/run_control.h"

namespace snapgdb::gdbstub {
namespace {

Pid pid_argument(Scanner& arguments) {
  arguments.expect(';');
  const Pid pid = arguments.pid();
  arguments.expect_end();
  return pid;
}

void require_attached(const SessionState& state, Pid pid) {
  if (!state.is_attached(pid))
    throw PacketError{kNoSuchThread, fmt::format("not attached to {}", pid.value)};
}

}  // namespace

Reply attach_process(SessionState& state, Scanner arguments) {
  state.attach(pid_argument(arguments));
  return stop_reason(state, Scanner(""));
}

// Without a process: all of them.
Reply detach_process(SessionState& state, Scanner arguments) {
  if (arguments.at_end()) {
    while (!state.attached.empty()) part_with(state, state.attached.back(), false);
    return "OK";
  }
  const Pid pid = pid_argument(arguments);
  require_attached(state, pid);
  part_with(state, pid, false);
  return "OK";
}

// A process of a snapshot leaves the client's view, and can be attached to again.
Reply kill_process(SessionState& state, Scanner arguments) {
  const Pid pid = pid_argument(arguments);
  require_attached(state, pid);
  part_with(state, pid, true);
  return "OK";
}

Reply kill_all(SessionState& state, Scanner) {
  return_to_snapshot(state);
  state.finished = true;
  return std::nullopt;
}

// Refused in so many words: without a reply gdb falls back to a restart that reports success.
Reply run_program(SessionState&, Scanner) {
  throw PacketError{kCannot, "a snapshot cannot start programs"};
}

}  // namespace snapgdb::gdbstub
