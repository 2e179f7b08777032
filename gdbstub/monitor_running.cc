#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <vector>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "gdbstub/monitor.h"
#include "gdbstub/run_control.h"

// Commands about what runs, and about the moments that it can run from.
namespace snapgdb::gdbstub {
namespace {

// gdb believes that a command of the stub leaves everything as it was. It keeps memory by process;
// and what it reads of that for registers that it still knows would be kept again.
std::string look_again_hint(const SessionState& state) {
  const char* each = state.attached.size() > 1 ? "thread apply all -q -s " : "";
  return fmt::format(
      "gdb looks again after `{0}maintenance flush dcache`, `{0}info sharedlibrary`,\n"
      "`maintenance flush register-cache` and `info threads` (in `snapgdb debug`, `restart` and\n"
      "`goto K` do it all).\n",
      each);
}

// gdb reads a program's symbols at execve(2), and when it attaches; it makes the breakpoints by
// which it hears of libraries anew when it searches for those elsewhere.
std::string programs_hint(const SessionState& state) {
  std::string out;
  for (const Pid pid : state.attached) {
    if (state.sets_up_gdb || !state.is_mistaken(pid)) continue;
    out += fmt::format("gdb still takes {} for {}: ", pid.value,
                       printable(state.programs.at(pid).path));
    out += state.client.extended ? "`run` stays here, and gdb sees what it is.\n"
                                 : fmt::format(
                                       "`file target:{}` and `set solib-search-path` before that,\n"
                                       "and `enable` for breakpoints that it has disabled.\n",
                                       printable(state.target->executable(pid).value_or("")));
  }
  return out;
}

std::string hints(const SessionState& state) {
  return look_again_hint(state) + programs_hint(state);
}

std::vector<uint64_t> sequences(const SessionState& state) {
  if (state.image) return state.image->snapshots();
  return {state.snapshot->record().sequence()};
}

std::shared_ptr<const Snapshot> open(const SessionState& state, uint64_t sequence) {
  if (sequence == state.snapshot->record().sequence()) return state.snapshot;
  return state.image->snapshot(sequence);
}

std::string when(const pb::SnapshotRecord& record) {
  constexpr int64_t kMillion = 1'000'000, kBillion = 1'000'000'000;
  const auto seconds = static_cast<time_t>(record.realtime_ns() / kBillion);
  return fmt::format("{:%Y-%m-%d %H:%M:%S}.{:03}", fmt::localtime(seconds),
                     record.realtime_ns() % kBillion / kMillion);
}

std::string describe(const SessionState& state, size_t k, uint64_t sequence) {
  const auto snapshot = open(state, sequence);
  const pb::SnapshotRecord& record = snapshot->record();
  const size_t processes = snapshot->processes().size();
  return fmt::format("{} {:>3}  {}  {} process{}  {}\n",
                     sequence == state.snapshot->record().sequence() ? '*' : ' ', k, when(record),
                     processes, processes == 1 ? "" : "es", printable(record.reason()));
}

std::string list(const std::vector<Pid>& pids) {
  std::string out;
  for (const Pid pid : pids) out += fmt::format("{}{}", out.empty() ? "" : ", ", pid.value);
  return out;
}

// Those that there is something of to be looked at.
std::set<Pid> shown_processes(const SnapshotTarget& moment) {
  std::set<Pid> shown;
  for (const Pid pid : moment.processes())
    if (!moment.threads(pid).empty()) shown.insert(pid);
  return shown;
}

// What the client, which goes by what it knows, has to be told of the moment that it looks at now.
std::string differences(const SessionState& state, const std::set<Pid>& before) {
  std::string out;
  std::vector<Pid> more;
  for (const Pid pid : shown_processes(*state.moment))
    if (!before.contains(pid) && !state.is_attached(pid) &&
        !(state.sets_up_gdb && state.programs.contains(pid)))  // attached to again, without a word
      more.push_back(pid);
  if (!state.away.empty())
    out += fmt::format("Not in it, until you go to one that has them: {}\n", list(state.away));
  if (!more.empty())
    out += fmt::format("New in it: {} ({})\n", list(more),
                       state.client.extended ? "for each: add-inferior, inferior N, attach PID"
                                             : "`monitor process` tells how to look at one");
  if (state.chosen && !state.target->has(state.selected))
    out += fmt::format("Thread {} is not in it: if you look at that one, choose another.\n",
                       state.selected.tid.value);
  return out;
}

// nullopt: neither one nor the other.
std::optional<bool> either(std::string_view word, std::string_view yes, std::string_view no) {
  if (word == yes) return true;
  if (word == no) return false;
  return std::nullopt;
}

}  // namespace

std::string restart(SessionState& state, std::string_view) {
  begin_anew(state);
  return "This is the snapshot, as it was taken.\n" + hints(state);
}

std::string list_snapshots(SessionState& state, std::string_view) {
  std::string out;
  size_t k = 0;
  for (const uint64_t sequence : sequences(state)) out += describe(state, ++k, sequence);
  return out;
}

std::string go_to_snapshot(SessionState& state, std::string_view argument) {
  const std::vector<uint64_t> all = sequences(state);
  const auto k = parse_number<size_t>(argument);
  if (argument.empty()) return fmt::format("goto K: to snapshot K of 1 to {}.\n", all.size());
  if (!k || *k < 1 || *k > all.size())
    return fmt::format("There is no snapshot {}: `monitor snapshots` lists 1 to {}.\n",
                       printable(argument), all.size());
  const auto snapshot = open(state, all[*k - 1]);
  auto moment = std::make_unique<SnapshotTarget>(snapshot);
  const std::set<Pid> shown = shown_processes(*moment), before = shown_processes(*state.moment);
  const auto is_there = [&](Pid pid) { return shown.contains(pid); };
  if (!state.attached.empty() && std::ranges::none_of(state.attached, is_there) &&
      std::ranges::none_of(state.away, is_there))
    return fmt::format("No process that you look at is in snapshot {}: nothing was changed.\n", *k);
  state.first = is_there(state.first) ? state.first : first_process(*snapshot, std::nullopt);
  note_signals(state);
  state.running.target.reset();
  state.snapshot = snapshot;
  state.moment = std::move(moment);
  return_to_snapshot(state);
  return fmt::format("This is snapshot {} of {}.\n{}{}", *k, all.size(), differences(state, before),
                     hints(state));
}

// For scripts: where gdb's view of its processes is not that of the snapshot.
std::string list_to_attach_again(SessionState& state, std::string_view) {
  std::string out;
  for (const auto& [pid, program] : state.programs) {
    const bool is_mistaken = state.is_mistaken(pid), is_attached = state.is_attached(pid);
    if (state.is_away(pid) || (is_attached && is_mistaken))
      out += fmt::format("{}: detach\n", pid.value);
    if (!is_attached && !state.target->threads(pid).empty())
      out += fmt::format("{}: attach{}\n", pid.value, is_mistaken ? ", another program" : "");
  }
  return out;
}

std::string choose_diversion(SessionState& state, std::string_view argument) {
  Running& running = state.running;
  const auto on = either(argument, "on", "off");
  if (!on)
    return fmt::format(
        "Diversion is {}. on|off: what is called from the snapshot leaves no trace.\n",
        running.diversion ? "on" : "off");
  running.diversion = *on;
  if (running.target && running.is_diverted && !*on) {
    return_to_snapshot(state);
    return "Diversion is off: this is the snapshot again.\n" + hints(state);
  }
  const char* from_when = *on && running.target && !running.is_diverted
                              ? ", from the snapshot only: `monitor restart` goes back to it"
                              : "";
  return fmt::format("Diversion is {}{}.\n", *on ? "on" : "off", from_when);
}

std::string choose_on_detach(SessionState& state, std::string_view argument) {
  if (const auto run = either(argument, "run", "drop")) state.running.let_go = *run;
  return state.running.let_go ? "On detach, the program runs on.\n"
                              : "On detach, what runs is dropped. run|drop chooses.\n";
}

std::string list_notes(SessionState& state, std::string_view) {
  if (!state.running.notes) return "Nothing has run yet.\n";
  std::string out;
  for (const std::string& note : *state.running.notes) out += printable(note) + "\n";
  return out.empty() ? "Everything is as it was in the snapshot.\n" : out;
}

std::string give_input(SessionState& state, std::string_view argument) {
  const std::string line = std::string(argument) + "\n";
  Running& running = state.running;
  if (running.target) {
    running.target->send_input(line);
    return "";
  }
  running.input += line;
  return "Kept until the program runs.\n";
}

}  // namespace snapgdb::gdbstub
