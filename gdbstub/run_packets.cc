#include <fmt/format.h>

#include "core/base/strings.h"
#include "gdbstub/handlers.h"
#include "gdbstub/run_control.h"
#include "gdbstub/signals.h"
#include "gdbstub/stop_replies.h"

namespace snapgdb::gdbstub {
namespace {

template <typename Id>
std::optional<Id> one_of(int64_t number) {
  if (number <= 0) return std::nullopt;
  return Id{static_cast<pid_t>(number)};
}

// Linux's.
int signal_number(const Client& client, Scanner& arguments) {
  const uint64_t number = arguments.hex();
  if (number <= 0xff) {
    const int sent = static_cast<int>(number);
    if (const auto known = client.lldb ? std::optional(sent) : linux_signal(sent)) return *known;
  }
  throw PacketError{kMalformed, "there is no such signal"};
}

// "c", "C0b", "s", "S0b", each perhaps with ":THREAD".
ResumeAction parse_action(const Client& client, Scanner action) {
  ResumeAction parsed;
  if (action.skip('s')) {
    parsed.step = true;
  } else if (action.skip('S')) {
    parsed.step = true;
    parsed.signal = signal_number(client, action);
  } else if (action.skip('C')) {
    parsed.signal = signal_number(client, action);
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

// The client hears of a stop in which nothing has changed: signal 0, since nothing happened to the
// program. An error reply would not do: gdb takes it for a connection that has lost its way. lldb
// continues by itself after a stop without a reason, so there the refusal is the reason.
Reply refuse_to_run(SessionState& state, ThreadId thread, const CannotRun& refusal) {
  const std::string stop = tell(state, {.kind = Event::Kind::kStopped, .thread = thread});
  if (state.client.lldb)
    return stop + fmt::format("reason:exception;description:{};", to_hex(refusal.text));
  state.console += refusal.text + "\n";
  return stop;
}

// The reply is the stop, when there is one.
Reply run(SessionState& state, std::vector<ResumeAction> actions, ThreadId thread) {
  try {
    resume(state, std::move(actions));
    return std::nullopt;
  } catch (const CannotRun& refusal) {
    return refuse_to_run(state, thread, refusal);
  }
}

Reply run_selected(SessionState& state, Scanner arguments, bool step, bool with_signal) {
  const ThreadId thread = state.selected_thread();
  ResumeAction action{.pid = thread.pid, .tid = thread.tid, .step = step};
  if (with_signal) action.signal = signal_number(state.client, arguments);
  arguments.expect_end();  // an address to continue at is a thing of the past
  return run(state, {action}, thread);
}

}  // namespace

Reply resume_actions(SessionState&, Scanner) {
  return "vCont;c;C;s;S";
}

Reply resume_threads(SessionState& state, Scanner arguments) {
  std::vector<ResumeAction> actions;
  arguments.expect(';');
  do actions.push_back(parse_action(state.client, Scanner(arguments.until(';'))));
  while (!arguments.at_end());
  // The first action is that of the thread the user is looking at.
  const ResumeAction& first = actions.front();
  const ThreadPattern pattern{first.pid.value_or(Pid{}).value, first.tid.value_or(Tid{}).value};
  return run(state, std::move(actions), state.thread(pattern));
}

Reply continue_thread(SessionState& state, Scanner arguments) {
  return run_selected(state, arguments, false, false);
}

Reply continue_with_signal(SessionState& state, Scanner arguments) {
  return run_selected(state, arguments, false, true);
}

Reply step_thread(SessionState& state, Scanner arguments) {
  return run_selected(state, arguments, true, false);
}

Reply step_with_signal(SessionState& state, Scanner arguments) {
  return run_selected(state, arguments, true, true);
}

}  // namespace snapgdb::gdbstub
