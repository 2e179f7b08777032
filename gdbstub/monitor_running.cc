#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "gdbstub/monitor.h"
#include "gdbstub/run_control.h"

// Commands about what runs, and about the moments that it can run from.
namespace snapgdb::gdbstub {
namespace {

// gdb believes that a command of the stub leaves everything as it was.
constexpr std::string_view kLookAgain =
    "gdb looks again after `maintenance flush register-cache`, `maintenance flush dcache` and\n"
    "`info threads` (in `snapgdb debug`, `restart` and `goto K` do it all).\n";

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

// nullopt: neither one nor the other.
std::optional<bool> either(std::string_view word, std::string_view yes, std::string_view no) {
  if (word == yes) return true;
  if (word == no) return false;
  return std::nullopt;
}

}  // namespace

std::string restart(SessionState& state, std::string_view) {
  begin_anew(state);
  return fmt::format("This is the snapshot, as it was taken.\n{}", kLookAgain);
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
  if (!k || *k < 1 || *k > all.size())
    return fmt::format("There is no snapshot {}: `monitor snapshots` lists 1 to {}.\n",
                       printable(argument), all.size());
  const auto snapshot = open(state, all[*k - 1]);
  auto moment = std::make_unique<SnapshotTarget>(snapshot);
  const auto is_there = [&](Pid pid) { return !moment->threads(pid).empty(); };
  if (!state.attached.empty() && std::ranges::none_of(state.attached, is_there))
    return fmt::format("No process that you look at is in snapshot {}.\n", *k);
  state.running.target.reset();
  state.snapshot = snapshot;
  state.moment = std::move(moment);
  return_to_snapshot(state);
  return fmt::format("This is snapshot {} of {}.\n{}", *k, all.size(), kLookAgain);
}

std::string choose_diversion(SessionState& state, std::string_view argument) {
  Running& running = state.running;
  const auto on = either(argument, "on", "off");
  if (!on)
    return fmt::format(
        "Diversion is {}. on|off: what is called from the snapshot leaves no trace.\n",
        running.diversion ? "on" : "off");
  const bool ends = running.diversion && !*on && running.target;
  running.diversion = *on;
  if (ends) {
    return_to_snapshot(state);
    return fmt::format("Diversion is off: this is the snapshot again.\n{}", kLookAgain);
  }
  if (*on && running.target)
    return "It counts from the snapshot only, and the program runs already: `monitor restart` goes "
           "back.\n";
  return fmt::format("Diversion is {}.\n", *on ? "on" : "off");
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
  if (!state.running.target) return "Nothing runs that could read it.\n";
  state.running.target->send_input(std::string(argument) + "\n");
  return "";
}

}  // namespace snapgdb::gdbstub
