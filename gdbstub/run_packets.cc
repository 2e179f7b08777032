#include <fmt/format.h>

#include "core/base/strings.h"
#include "gdbstub/handlers.h"

namespace snapgdb::gdbstub {
namespace {

template <typename Id>
std::optional<Id> one_of(int64_t number) {
  if (number <= 0) return std::nullopt;
  return Id{static_cast<pid_t>(number)};
}

int signal_number(Scanner& arguments) {
  const uint64_t number = arguments.hex();
  if (number > 0xff) throw PacketError{kMalformed, "there is no such signal"};
  return static_cast<int>(number);
}

// "c", "C0b", "s", "S0b", each perhaps with ":THREAD".
ResumeAction parse_action(Scanner action) {
  ResumeAction parsed;
  if (action.skip('s')) {
    parsed.step = true;
  } else if (action.skip('S')) {
    parsed.step = true;
    parsed.signal = signal_number(action);
  } else if (action.skip('C')) {
    parsed.signal = signal_number(action);
  } else {
    action.expect('c');
  }
  if (action.skip(':')) {
    const ThreadPattern pattern = action.thread();
    parsed.pid = one_of<Pid>(pattern.pid);
    parsed.tid = one_of<Tid>(pattern.tid);
  }
  action.expect_end();
  return parsed;
}

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

// The client hears of a stop in which nothing has changed: signal 0, since nothing happened to the
// program. An error reply would not do: gdb takes it for a connection that has lost its way. lldb
// continues by itself after a stop without a reason, so there the refusal is the reason.
Reply refuse_to_run(SessionState& state, ThreadId thread, const CannotRun& refusal) {
  const std::string stop = state.stop_reply(thread, 0);
  if (state.client.lldb)
    return stop + fmt::format("reason:exception;description:{};", to_hex(refusal.text));
  state.console += refusal.text + "\n";
  return stop;
}

Reply resume(SessionState& state, std::span<const ResumeAction> actions, ThreadId thread) {
  try {
    const ThreadId stopped = state.target->resume(actions);
    return state.stop_reply(stopped, state.target->describe(stopped).signal);
  } catch (const CannotRun& refusal) {
    return refuse_to_run(state, thread, refusal);
  }
}

Reply resume_selected(SessionState& state, Scanner arguments, bool step, bool with_signal) {
  const ThreadId thread = state.selected_thread();
  ResumeAction action{thread.pid, thread.tid, step, 0};
  if (with_signal) action.signal = signal_number(arguments);
  arguments.expect_end();  // an address to continue at is a thing of the past
  return resume(state, std::span(&action, 1), thread);
}

}  // namespace

Reply insert_breakpoint(SessionState& state, Scanner arguments) {
  state.target->insert(state.selected_thread().pid, parse_breakpoint(arguments));
  return "OK";
}

Reply remove_breakpoint(SessionState& state, Scanner arguments) {
  state.target->remove(state.selected_thread().pid, parse_breakpoint(arguments));
  return "OK";
}

Reply resume_actions(SessionState&, Scanner) {
  return "vCont;c;C;s;S";
}

Reply resume_threads(SessionState& state, Scanner arguments) {
  std::vector<ResumeAction> actions;
  arguments.expect(';');
  do actions.push_back(parse_action(Scanner(arguments.until(';'))));
  while (!arguments.at_end());
  // The first action is that of the thread the user is looking at.
  const ResumeAction& first = actions.front();
  const ThreadPattern pattern{first.pid.value_or(Pid{}).value, first.tid.value_or(Tid{}).value};
  return resume(state, actions, state.thread(pattern));
}

Reply continue_thread(SessionState& state, Scanner arguments) {
  return resume_selected(state, arguments, false, false);
}

Reply continue_with_signal(SessionState& state, Scanner arguments) {
  return resume_selected(state, arguments, false, true);
}

Reply step_thread(SessionState& state, Scanner arguments) {
  return resume_selected(state, arguments, true, false);
}

Reply step_with_signal(SessionState& state, Scanner arguments) {
  return resume_selected(state, arguments, true, true);
}

}  // namespace snapgdb::gdbstub
