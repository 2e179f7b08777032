#include <fmt/format.h>

#include "gdbstub/handlers.h"

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
    while (!state.attached.empty()) state.detach(state.attached.back());
    return "OK";
  }
  const Pid pid = pid_argument(arguments);
  require_attached(state, pid);
  state.detach(pid);
  return "OK";
}

// There is nothing to kill in a snapshot, and nothing to put back: the process leaves the client's
// view, and can be attached to again.
Reply kill_process(SessionState& state, Scanner arguments) {
  return detach_process(state, arguments);
}

Reply kill_all(SessionState& state, Scanner) {
  state.finished = true;
  return std::nullopt;
}

// Refused in so many words: without a reply gdb falls back to a restart that reports success.
Reply run_program(SessionState&, Scanner) {
  throw PacketError{kCannot, "a snapshot cannot start programs"};
}

}  // namespace snapgdb::gdbstub
