#include "gdbstub/run_control.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/base/error.h"
#include "gdbstub/stop_replies.h"

namespace snapgdb::gdbstub {
namespace {

using Kind = Event::Kind;

bool means(const ResumeAction& action, ThreadId thread) {
  if (action.pid && *action.pid != thread.pid) return false;
  return !action.tid || thread.tid.value == 0 || *action.tid == thread.tid;
}

// A stop of what the client has not resumed would only confuse it.
bool is_due(const SessionState& state, const Event& event) {
  return event.kind == Kind::kNothingRuns ||
         std::ranges::any_of(state.running.resumed, [&](const ResumeAction& action) {
           return means(action, event.thread);
         });
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

Wishes wishes(const SessionState& state) {
  return {.forks = state.client.fork_events,
          .vforks = state.client.vfork_events,
          .execs = state.client.exec_events};
}

void insert_all(SessionState& state) {
  for (const auto& [pid, list] : state.running.breakpoints)
    for (const Breakpoint& breakpoint : list)
      if (state.is_attached(pid) && !state.running.target->insert(pid, breakpoint))
        throw Error(fmt::format("cannot set the breakpoint at {:#x}", breakpoint.address),
                    "the processor cannot do that");
}

void launch(SessionState& state) {
  Running& running = state.running;
  if (!running.launch)
    throw CannotRun{
        "snapgdb: nothing has run: this is a snapshot, a moment of the program. It can be looked "
        "at "
        "and changed, but not continued, stepped or called into."};
  try {
    running.target = running.launch(*state.moment, state.attached);
    state.target = running.target.get();
    running.target->set_wishes(wishes(state));
    insert_all(state);
  } catch (const Error& error) {
    return_to_snapshot(state);
    throw CannotRun{fmt::format("snapgdb: nothing has run: {}", error.what())};
  }
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

void note_fork(SessionState& state, const Event& event) {
  Running& running = state.running;
  state.attached.push_back(event.child.pid);
  state.last_selected[event.child.pid] = event.child.tid;
  running.forked = {event.thread.pid, event.child.pid};
  running.breakpoints[event.child.pid] = running.breakpoints[event.thread.pid];
}

void forget(SessionState& state, Pid pid) {
  state.detach(pid);
  state.running.breakpoints.erase(pid);
  std::erase_if(state.running.events, [&](const Event& event) { return event.thread.pid == pid; });
  if (state.running.target && state.attached.empty()) return_to_snapshot(state);
}

}  // namespace

void resume(SessionState& state, std::vector<ResumeAction> actions) {
  Running& running = state.running;
  if (!running.target) launch(state);
  running.resumed = std::move(actions);
  running.forked.clear();
  running.waiting = true;
  // What has happened before is told first; nobody moves for that.
  if (std::ranges::none_of(running.events, [&](const Event& e) { return is_due(state, e); }))
    running.target->resume(running.resumed);
}

std::optional<Event> next_event(SessionState& state) {
  if (auto event = take_due(state)) return event;
  while (auto event = state.running.target->next_event()) {
    if (event->kind != Kind::kNothingRuns && !state.is_attached(event->thread.pid)) continue;
    if (is_due(state, *event)) return event;
    state.running.events.push_back(*std::move(event));
  }
  return std::nullopt;
}

std::string tell(SessionState& state, const Event& event) {
  if (event.kind == Kind::kFork || event.kind == Kind::kVfork) note_fork(state, event);
  if (event.kind == Kind::kExec) state.running.breakpoints.erase(event.thread.pid);
  std::string reply = stop_reply(state, event);
  if (event.kind == Kind::kExited || event.kind == Kind::kKilled) {
    forget(state, event.thread.pid);
  } else if (event.kind != Kind::kNothingRuns && event.kind != Kind::kThreadExited) {
    state.select(event.thread);
    state.chosen = true;  // gdb takes the thread of a stop for selected
  }
  return reply;
}

void return_to_snapshot(SessionState& state) {
  Running& running = state.running;
  running.target.reset();
  running.waiting = false;
  running.events.clear();
  running.resumed.clear();
  running.forked.clear();
  state.target = state.moment.get();
  const auto gone = [&](Pid pid) { return state.moment->threads(pid).empty(); };
  for (const Pid pid : std::vector(state.attached)) {
    if (gone(pid))
      state.detach(pid);
    else if (!state.target->has({pid, state.last_selected[pid]}))
      state.last_selected[pid] = state.target->focus(pid);
  }
  std::erase_if(running.breakpoints, [&](const auto& entry) { return gone(entry.first); });
  if (!state.attached.empty()) state.select(state.selected_thread());
}

bool insert(SessionState& state, Pid pid, const Breakpoint& breakpoint) {
  if (breakpoint.kind == BreakpointKind::kRead) return false;  // x86 has no such thing
  remove(state, pid, breakpoint);                              // with other conditions, perhaps
  auto& list = state.running.breakpoints[pid];
  require_debug_registers(list, breakpoint);
  if (state.running.target && !state.running.target->insert(pid, breakpoint)) return false;
  list.push_back(breakpoint);
  return true;
}

void remove(SessionState& state, Pid pid, const Breakpoint& breakpoint) {
  const auto same = [&](const Breakpoint& old) { return old.is(breakpoint); };
  if (std::erase_if(state.running.breakpoints[pid], same) > 0 && state.running.target)
    state.running.target->remove(pid, breakpoint);
}

// Most clients detach when they quit, and nothing may be left behind then. But the one of two after
// a fork that the client does not follow has to run on, for the other may wait for it.
void part_with(SessionState& state, Pid pid, bool kill) {
  Running& running = state.running;
  if (running.target) {
    const bool runs_on = !kill && (running.let_go || std::ranges::count(running.forked, pid) > 0);
    if (runs_on)
      running.target->detach(pid);
    else
      running.target->kill(pid);
    if (runs_on && running.let_go && state.attached.size() == 1) running.target->let_go();
  }
  forget(state, pid);
}

}  // namespace snapgdb::gdbstub
