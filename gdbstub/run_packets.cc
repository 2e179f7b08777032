#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <span>
#include <utility>

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

// What one part of vCont asks for.
struct Asked {
  ResumeAction action;
  bool stop = false;
};

// "c", "C0b", "s", "S0b", "r401000,401010", "t", each perhaps with ":THREAD".
Asked parse_action(const Client& client, Scanner text) {
  Asked asked;
  ResumeAction& action = asked.action;
  if (text.skip('s')) {
    action.step = true;
  } else if (text.skip('S')) {
    action.step = true;
    action.signal = signal_number(client, text);
  } else if (text.skip('C')) {
    action.signal = signal_number(client, text);
  } else if (text.skip('r')) {
    action.step = true;
    action.range_start = text.hex();
    text.expect(',');
    action.range_end = text.hex();
  } else if (text.skip('t')) {
    asked.stop = true;
  } else {
    text.expect('c');
  }
  if (text.skip(':')) {
    const ThreadPattern pattern = text.thread();
    action.pid = one_of<Pid>(pattern.pid);
    action.tid = one_of<Tid>(pattern.tid);
  }
  text.expect_end();
  return asked;
}

// The client hears of a stop in which nothing has changed: signal 0, since nothing happened to the
// program. An error reply would not do: gdb takes it for a connection that has lost its way. lldb
// continues by itself after a stop without a reason, so there the refusal is the reason.
// In non-stop mode each thread that was to run has a stop of its own.
Reply refuse_to_run(SessionState& state, std::span<const ResumeAction> actions, ThreadId thread,
                    const CannotRun& refusal) {
  if (state.running.non_stop) {
    state.aside += refusal.text + "\n";
    for (const Pid pid : state.attached)
      for (const Tid tid : state.target->threads(pid))
        if (std::ranges::any_of(actions, [&](const auto& each) { return means(each, {pid, tid}); }))
          state.running.events.push_back({.kind = Event::Kind::kStopped, .thread = {pid, tid}});
    return "OK";
  }
  const std::string stop = tell(state, {.kind = Event::Kind::kStopped, .thread = thread});
  if (state.client.lldb)
    return stop + fmt::format("reason:exception;description:{};", to_hex(refusal.text));
  state.console += refusal.text + "\n";
  return stop;
}

// A client that takes the process for a program that it has become later hears of another execve(2)
// first, and goes on by itself.
std::string arrive(SessionState& state, ThreadId thread) {
  if (state.client.exec_events && state.is_mistaken(thread.pid))
    return tell(state, {.kind = Event::Kind::kExec,
                        .thread = thread,
                        .signal = SIGTRAP,
                        .path = state.target->executable(thread.pid).value_or("")});
  state.running.arrived = false;
  return tell(state, {.kind = Event::Kind::kStopped, .thread = thread});
}

// The reply is the stop, when there is one; in non-stop mode it only says that the threads go on.
Reply run(SessionState& state, const std::vector<ResumeAction>& actions, ThreadId thread) {
  if (state.running.arrived && !state.running.non_stop) return arrive(state, thread);
  state.running.arrived = false;
  try {
    resume(state, actions);
    if (state.running.non_stop) return "OK";
    return std::nullopt;
  } catch (const CannotRun& refusal) {
    return refuse_to_run(state, actions, thread, refusal);
  }
}

// One thread steps or gets the signal; of those that Hc left open, all others go on, as with
// gdbserver. lldb continues all threads like that.
Reply run_selected(SessionState& state, Scanner arguments, bool step, bool with_signal) {
  const ThreadPattern chosen = state.to_run;
  const ThreadId thread = chosen.is_any() ? state.selected_thread() : state.thread(chosen);
  ResumeAction action{.pid = thread.pid, .tid = thread.tid, .step = step};
  if (with_signal) action.signal = signal_number(state.client, arguments);
  arguments.expect_end();  // an address to continue at is a thing of the past
  std::vector<ResumeAction> actions{action};
  if (chosen.tid <= 0) actions.push_back({.pid = one_of<Pid>(chosen.pid)});
  return run(state, actions, thread);
}

}  // namespace

Reply resume_actions(SessionState&, Scanner) {
  return "vCont;c;C;s;S;t;r";
}

Reply resume_threads(SessionState& state, Scanner arguments) {
  std::vector<ResumeAction> actions;
  arguments.expect(';');
  do {
    const auto [action, stop] = parse_action(state.client, Scanner(arguments.until(';')));
    if (!stop)
      actions.push_back(action);
    else if (state.running.target)
      state.running.target->stop(action.pid, action.tid);
    else if (state.running.non_stop)
      tell_who_stands(state, action);
  } while (!arguments.at_end());
  if (actions.empty()) return "OK";
  // The first action is that of the thread the user is looking at.
  const ResumeAction& first = actions.front();
  const ThreadPattern pattern{first.pid.value_or(Pid{}).value, first.tid.value_or(Tid{}).value};
  // Of a process that has ended already, there is to be told just that.
  const bool has_ended = state.running.target && state.threads(pattern).empty();
  return run(state, actions, has_ended ? ThreadId{} : state.thread(pattern));
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

// In non-stop mode, one of those that stand still, the others as notices, later: gdb 13.1
// connects to one thread that stands still, but aborts with an internal error if there are more.
Reply stop_reason(SessionState& state, Scanner) {
  Running& running = state.running;
  if (!running.non_stop) {
    if (state.attached.empty()) return "W00";  // how the protocol says that there is no process
    return standing_reply(state, state.thread({}));
  }
  running.notices.clear();
  running.standing.clear();
  for (const Pid pid : state.attached)
    for (const Tid tid : state.target->threads(pid))
      if (!running.target || !running.target->runs({pid, tid}))
        running.standing.push_back({pid, tid});
  if (running.standing.empty()) return "OK";
  const auto first = std::ranges::find(running.standing, state.selected);
  const auto told = first == running.standing.end() ? running.standing.begin() : first;
  const Event event = standing(state, *told);
  running.notices.push_back({event, stop_reply(state, event)});
  running.known_to_stand = {*told};
  running.standing.erase(told);
  return running.notices.front().reply;
}

// The client has taken note of the last one.
Reply next_notice(SessionState& state, Scanner) {
  auto& notices = state.running.notices;
  if (!notices.empty()) notices.pop_front();
  return notices.empty() ? "OK" : notices.front().reply;
}

Reply interrupt_program(SessionState& state, Scanner) {
  if (state.running.target) state.running.target->interrupt();
  return "OK";
}

Reply choose_non_stop(SessionState& state, Scanner arguments) {
  arguments.expect(':');
  state.running.non_stop = arguments.hex() != 0;
  state.has_no_aside = !state.running.non_stop;
  state.running.notices.clear();
  state.running.known_to_stand.clear();
  if (state.running.target && !state.running.non_stop) state.running.target->halt();
  return "OK";
}

}  // namespace snapgdb::gdbstub
