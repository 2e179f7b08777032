#include "gdbstub/run_control.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <span>
#include <utility>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "gdbstub/stop_replies.h"

namespace snapgdb::gdbstub {
namespace {

using Kind = Event::Kind;

constexpr size_t kRax = 0, kRsp = 7,
                 kRip = 16;  // gdb's numbers; the general registers end with rip

std::optional<std::string> value_of(const Target& target, ThreadId thread, size_t number) {
  return RegisterLayout::value(target.registers(thread), target.layout().registers()[number]);
}

// A stop of what the client has not resumed would only confuse it. Whichever thread calls execve(2)
// has the first one's number afterwards, which may not have been resumed.
bool is_due(const SessionState& state, const Event& event) {
  const ThreadId whose = event.kind == Kind::kExec ? ThreadId{event.thread.pid, {}} : event.thread;
  return state.running.non_stop || event.kind == Kind::kNothingRuns ||
         std::ranges::any_of(state.running.resumed,
                             [&](const ResumeAction& action) { return means(action, whose); });
}

// A thread may be gone together with its process before anybody was told of its stop.
bool is_there(const SessionState& state, const Event& event) {
  if (event.kind == Kind::kNothingRuns) return true;
  if (!state.is_attached(event.thread.pid)) return false;
  return event.kind == Kind::kExited || event.kind == Kind::kKilled ||
         event.kind == Kind::kThreadExited || state.target->has(event.thread);
}

std::optional<Event> take_due(SessionState& state) {
  auto& events = state.running.events;
  const auto found =
      std::ranges::find_if(events, [&](const Event& event) { return is_due(state, event); });
  if (found == events.end()) return std::nullopt;
  Event event = std::move(*found);
  events.erase(found);
  return event;
}

void insert_all(SessionState& state) {
  for (const auto& [pid, list] : state.running.breakpoints)
    for (const Breakpoint& breakpoint : list)
      if (state.is_attached(pid) && !state.running.target->insert(pid, breakpoint))
        throw Error(fmt::format("cannot set the breakpoint at {:#x}", breakpoint.address),
                    std::string(obstacle_to(breakpoint)));
}

// A call needs room on the stack of its thread, and sends it elsewhere.
bool begins_call(const SessionState& state) {
  if (!state.running.before_call) return false;
  SnapshotTarget before(state.snapshot);
  before.set_changes(*state.running.before_call);
  return std::ranges::any_of(state.moment->changes().registers, [&](const auto& changed) {
    return std::ranges::all_of(std::array{kRsp, kRip}, [&](size_t number) {
      return value_of(*state.moment, changed.first, number) !=
             value_of(before, changed.first, number);
    });
  });
}

// gdb stays in the function that it was about to call, unless it was told otherwise.
CannotRun cannot_run(const SessionState& state, bool in_call, std::string_view why) {
  std::string text = fmt::format("snapgdb: nothing has run: {}", why);
  if (in_call && !state.sets_up_gdb)
    text += "\nsnapgdb: `return` ends the call (after `set unwindonsignal on`, gdb does by itself)";
  return {std::move(text)};
}

// The user reads them once, however often the snapshot is made to run.
void show(SessionState& state, const std::string& text) {
  (state.running.non_stop ? state.aside : state.console) += text;
}

void show_notes(SessionState& state) {
  Running& running = state.running;
  std::vector<std::string> notes = running.target->notes();
  if (running.notes && *running.notes == notes) return;
  constexpr size_t kShown = 5;
  std::string text;
  for (const std::string& note : std::span(notes).first(std::min(notes.size(), kShown)))
    text += fmt::format("snapgdb: {}\n", printable(note));
  if (notes.size() > kShown)
    text += fmt::format("snapgdb: … and {} more (`monitor notes`)\n", notes.size() - kShown);
  show(state, text);
  running.notes = std::move(notes);
}

void give_kept_input(SessionState& state) try {
  const std::string input = std::exchange(state.running.input, {});
  if (!input.empty()) state.running.target->send_input(input);
} catch (const Error& error) {
  show(state, fmt::format("snapgdb: {}\n", error.what()));
}

void drop_tree(SessionState& state) {
  Running& running = state.running;
  running.target.reset();
  running.over.reset();
  running.waiting = running.interrupted = false;
  running.events.clear();
  running.told.reset();
  running.resumed.clear();
  running.forked.clear();
  running.before_call.reset();
  running.in_call = false;
  state.target = state.moment.get();
  look_again(state);
}

void launch(SessionState& state) {
  Running& running = state.running;
  const bool in_call = begins_call(state);
  if (!running.launch)
    throw cannot_run(state, in_call,
                     "this is a snapshot, a moment of the program. It can be looked at and "
                     "changed, but not continued, stepped or called into.");
  running.over.reset();
  try {
    running.target = running.launch(*state.moment, state.attached);
    state.target = running.target.get();
    tell_wishes(state);
    insert_all(state);
    show_notes(state);
    if (!in_call || !running.diversion) give_kept_input(state);
  } catch (const Error& error) {
    drop_tree(state);
    throw cannot_run(state, in_call, error.what());
  }
  running.in_call = in_call;
  running.is_diverted = running.diversion;
  if (in_call) state.moment->set_changes(*running.before_call);
}

void note_fork(SessionState& state, const Event& event) {
  Running& running = state.running;
  state.attached.push_back(event.child.pid);
  std::erase(state.away, event.child.pid);
  state.last_selected[event.child.pid] = event.child.tid;
  running.forked.insert({event.thread.pid, event.child.pid});
  running.breakpoints[event.child.pid] = running.breakpoints[event.thread.pid];
}

void note_program(SessionState& state, const Event& event) {
  const Pid pid = event.thread.pid;
  state.running.breakpoints.erase(pid);
  state.programs[pid] = program_of(*state.target, pid);
  state.programs[pid].path = event.path;
}

void note_result(SessionState& state, ThreadId thread) {
  const auto rax = value_of(*state.target, thread, kRax);
  if (rax) std::memcpy(&state.running.returned, rax->data(), sizeof state.running.returned);
}

void forget(SessionState& state, Pid pid) {
  state.detach(pid);
  state.running.breakpoints.erase(pid);
  std::erase_if(state.running.known_to_stand, [&](ThreadId each) { return each.pid == pid; });
  std::erase_if(state.running.events, [&](const Event& event) { return event.thread.pid == pid; });
  if (state.running.target && state.attached.empty()) return_to_snapshot(state);
}

// A client that lets everybody run may not have heard of these yet: what has stopped meanwhile, and
// a child that was born, which it may want to let go of as it is.
std::vector<ThreadId> not_known_to_stand(const Running& running) {
  std::vector<ThreadId> threads;
  for (const auto& [event, reply] : running.notices) {
    threads.push_back(event.thread);
    if (event.child.pid.value != 0) threads.push_back(event.child);
  }
  return threads;
}

void note_who_stands(std::set<ThreadId>& known, const Event& event) {
  if (event.kind == Kind::kExec)  // of the others nothing is left
    std::erase_if(known, [&](ThreadId each) { return each.pid == event.thread.pid; });
  if (event.kind == Kind::kThreadExited)
    known.erase(event.thread);
  else if (event.thread.tid.value != 0)
    known.insert(event.thread);
  if (event.child.tid.value != 0) known.insert(event.child);
}

// The client takes those that it has resumed for running, also where they have something to tell.
void note_who_runs(Running& running, std::span<const ThreadId> kept) {
  std::erase_if(running.known_to_stand, [&](ThreadId each) {
    return std::ranges::find(kept, each) == kept.end() &&
           std::ranges::any_of(running.resumed,
                               [&](const ResumeAction& action) { return means(action, each); });
  });
}

// What a thread had stopped at in another moment would be news to it here.
void leave_out_former_signals(SessionState& state, std::vector<ResumeAction>& actions) {
  const auto former = std::exchange(state.running.former_signals, {});
  for (ResumeAction& action : actions)
    if (std::ranges::any_of(former, [&](const auto& of_one) {
          const auto& [thread, signal] = of_one;
          return signal == action.signal && means(action, thread) && state.moment->has(thread) &&
                 state.moment->describe(thread).signal != signal;
        }))
      action.signal = 0;
}

}  // namespace

void note_signals(SessionState& state) {
  for (const Pid pid : state.attached)
    for (const Tid tid : state.target->threads(pid))
      if (const int signal = state.target->describe({pid, tid}).signal)
        state.running.former_signals.insert_or_assign({pid, tid}, signal);
}

bool means(const ResumeAction& action, ThreadId thread) {
  if (action.pid && *action.pid != thread.pid) return false;
  return !action.tid || thread.tid.value == 0 || *action.tid == thread.tid;
}

void resume(SessionState& state, std::vector<ResumeAction> actions) {
  Running& running = state.running;
  if (!running.target) {
    launch(state);
    leave_out_former_signals(state, actions);
  }
  running.resumed = std::move(actions);
  running.told.reset();
  if (!running.non_stop) running.forked.clear();
  for (const ResumeAction& action : running.resumed)
    if (action.pid) running.forked.erase(*action.pid);
  running.waiting = !running.non_stop;
  std::erase_if(running.events, [&](const Event& event) {
    const auto action = std::ranges::find_if(
        running.resumed, [&](const ResumeAction& each) { return means(each, event.thread); });
    return action != running.resumed.end() && is_outrun(event, *action);
  });
  const std::vector<ThreadId> kept = not_known_to_stand(running);
  note_who_runs(running, kept);
  // What has happened before is told first; nobody moves for that.
  if (std::ranges::none_of(running.events, [&](const Event& e) { return is_due(state, e); })) try {
      running.target->resume(running.resumed, kept);
    } catch (const Error&) {
      running.waiting = false;  // what comes in its place is an answer already
      throw;
    }
  if (std::exchange(running.interrupted, false)) running.target->interrupt();
}

std::optional<Event> next_event(SessionState& state) {
  if (auto event = take_due(state)) return event;
  RunningTarget* target = state.running.target.get();
  while (auto event = target ? target->next_event() : std::nullopt) {
    if (!is_there(state, *event)) continue;
    if (is_due(state, *event)) return event;
    state.running.events.push_back(*std::move(event));
  }
  return std::nullopt;
}

std::optional<std::string> stop_at_event(SessionState& state) {
  Running& running = state.running;
  std::optional<Event> event = next_event(state);
  if (!event && running.target->stands_still()) event = Event{Kind::kNothingRuns};
  if (event && event->kind != Kind::kNothingRuns) running.target->halt();
  state.console += running.target->take_output();
  if (!event) return std::nullopt;
  for (; event; event = next_event(state))
    if (auto reply = is_there(state, *event) ? tell_if_there(state, *event) : std::nullopt)
      return reply;
  for (ResumeAction& action : running.resumed) action.signal = 0;  // it was delivered
  running.target->resume(running.resumed, {});
  return std::nullopt;
}

std::optional<std::string> tell_if_there(SessionState& state, const Event& event) try {
  return tell(state, event);
} catch (const SystemError& error) {
  if (error.error_number() != ESRCH) throw;
  return std::nullopt;
}

std::string tell(SessionState& state, const Event& event) {
  std::string reply = stop_reply(state, event);
  state.running.told = event;
  if (event.kind == Kind::kFork || event.kind == Kind::kVfork) note_fork(state, event);
  if (event.kind == Kind::kExec) note_program(state, event);
  if (state.running.non_stop) note_who_stands(state.running.known_to_stand, event);
  if (event.kind == Kind::kExited || event.kind == Kind::kKilled) {
    forget(state, event.thread.pid);
  } else if (event.kind != Kind::kNothingRuns && event.kind != Kind::kThreadExited &&
             !state.running.non_stop) {
    if (state.running.in_call) note_result(state, event.thread);
    state.select(event.thread);
    state.chosen = true;  // gdb takes the thread of a stop for selected
  }
  return reply;
}

void tell_wishes(const SessionState& state) {
  if (!state.running.target) return;
  Wishes wishes = state.running.wishes;
  wishes.forks = state.client.fork_events;
  wishes.vforks = state.client.vfork_events;
  wishes.execs = state.client.exec_events;
  state.running.target->set_wishes(std::move(wishes));
}

void return_to_snapshot(SessionState& state) {
  drop_tree(state);
  if (!state.running.non_stop) return;
  // The client has been sent the first notice; the others are of what is no more.
  auto& notices = state.running.notices;
  for (; notices.size() > 1; notices.pop_back())
    state.running.known_to_stand.erase(notices.back().event.thread);
  tell_who_stands(state, {});
}

void tell_who_stands(SessionState& state, const ResumeAction& whom) {
  Running& running = state.running;
  const auto is_told = [&](ThreadId thread) {
    return running.known_to_stand.contains(thread) ||
           std::ranges::find(running.standing, thread) != running.standing.end() ||
           std::ranges::find(running.events, thread, &Event::thread) != running.events.end();
  };
  for (const Pid pid : state.attached)
    for (const Tid tid : state.target->threads(pid))
      if (const ThreadId thread{pid, tid}; means(whom, thread) && !is_told(thread))
        running.events.push_back({.kind = Kind::kStopped, .thread = thread});
}

void begin_anew(SessionState& state) {
  note_signals(state);
  return_to_snapshot(state);
  state.moment->revert();
}

bool has_place_for(const SessionState& state, Pid pid, const Breakpoint& breakpoint) {
  if (breakpoint.kind != BreakpointKind::kSoftware) return true;
  const auto mapping = state.moment->mapping_at_or_after(pid, breakpoint.address);
  return mapping && mapping->start <= breakpoint.address;
}

void look_again(SessionState& state) {
  const auto gone = [&](Pid pid) { return state.target->threads(pid).empty(); };
  std::vector<Pid> known = std::exchange(state.attached, {});
  std::ranges::move(std::exchange(state.away, {}), std::back_inserter(known));
  for (const Pid pid : known) {
    (gone(pid) ? state.away : state.attached).push_back(pid);
    if (!gone(pid) && !state.target->has({pid, state.last_selected[pid]}))
      state.last_selected[pid] = state.target->focus(pid);
  }
  const auto of_gone = [&](const auto& entry) { return gone(entry.first); };
  std::erase_if(state.running.breakpoints, of_gone);
  for (auto& of_one : state.running.breakpoints)  // in libraries that are not there any more
    std::erase_if(of_one.second, [&](const Breakpoint& each) {
      return !has_place_for(state, of_one.first, each);
    });
  std::erase_if(state.running.wishes.system_calls, of_gone);
  state.library_files = {};  // another program may have been there
  if (state.chosen) return;  // the client still means that one, there or not
  state.selected = {};
  if (!state.attached.empty()) state.select(state.thread({}));
}

void note_call(SessionState& state) {
  if (!state.running.target) state.running.before_call = state.moment->changes();
}

void end_call(SessionState& state, ThreadId thread) {
  if (!state.running.target || !state.running.is_diverted || !state.running.in_call) return;
  if (!state.moment->has(thread)) return;
  for (size_t number = 0; number <= kRip; ++number)
    if (value_of(*state.target, thread, number) != value_of(*state.moment, thread, number)) return;
  auto tree = std::move(state.running.target);
  return_to_snapshot(state);
  state.running.over = std::move(tree);
}

void continue_diversion(SessionState& state, uint64_t address) {
  Running& running = state.running;
  if (!running.over || address != running.returned) return;
  running.target = std::move(running.over);
  running.in_call = true;
  state.target = running.target.get();
}

// Most clients detach when they quit, and nothing may be left behind then. But the one of two after
// a fork that the client does not follow has to run on, for the other may wait for it.
void part_with(SessionState& state, Pid pid, bool kill) {
  if (std::erase(state.away, pid) != 0) return;
  Running& running = state.running;
  if (running.target) {
    const bool runs_on = !kill && (running.let_go || running.forked.contains(pid));
    if (runs_on)
      running.target->detach(pid);
    else
      running.target->kill(pid);
    for (const Event& event : running.events)  // of children that nobody will be told of
      if (event.thread.pid == pid && event.child.pid.value != 0 && event.child.pid != pid)
        running.target->detach(event.child.pid);
    if (runs_on && running.let_go && state.attached.size() == 1) running.target->let_go();
  }
  running.parted_with = pid;
  forget(state, pid);
}

}  // namespace snapgdb::gdbstub
