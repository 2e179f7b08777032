#include "gdbstub/monitor.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "core/base/error.h"
#include "core/base/strings.h"

namespace snapgdb::gdbstub {
namespace {

std::string title(const pb::Process& process) {
  std::string line;
  for (const std::string& argument : process.arguments())
    (line += line.empty() ? "" : " ") += argument;
  return printable(line.empty() ? process.name() : line);
}

// Of those that run, what they are now.
std::string list_running(const RunningTarget& target) {
  std::string out;
  for (const Pid pid : target.processes()) {
    out += fmt::format("{}: {}\n", pid.value, printable(target.executable(pid).value_or("?")));
    for (const Tid tid : target.threads(pid))
      out += fmt::format("  thread {} {} {}\n", tid.value,
                         target.runs({pid, tid}) ? "runs" : "stands still",
                         printable(target.describe({pid, tid}).name));
  }
  return out;
}

std::string list_processes(SessionState& state, std::string_view) {
  if (state.running.target) return list_running(*state.running.target);
  const Snapshot& snapshot = *state.snapshot;
  std::string out;
  for (const pb::Process& process : snapshot.processes()) {
    out += fmt::format("{} {} (child of {}): {}\n", process.pid(), process.state(),
                       process.parent(), title(process));
    for (const pb::Thread& thread : process.threads())
      out += fmt::format("  thread {} {} {}\n", thread.tid(), thread.state(),
                         printable(thread.name()));
  }
  return out;
}

std::string reach_process(SessionState& state, std::string_view argument) {
  const Snapshot& snapshot = *state.snapshot;
  const auto pid = parse_number<int32_t>(argument);
  if (!argument.empty() && (!pid || !snapshot.process(*pid)))
    return fmt::format("There is no process {} in this snapshot; `monitor ps` lists them.\n",
                       printable(argument));
  const std::string shown = pid ? fmt::format("{}", *pid) : "PID";
  return fmt::format(
      "One connection by `target remote` shows one process.\n"
      "  process {0} alone:      target remote | snapgdb IMG --pid {0}\n"
      "  every process at once:  snapgdb debug IMG\n",
      shown);
}

const char* role_name(pb::FileRole role) {
  switch (role) {
    case pb::FILE_EXECUTABLE:
      return "executable";
    case pb::FILE_LIBRARY:
      return "library";
    case pb::FILE_DEBUG:
      return "debug";
    default:
      return "data";
  }
}

std::string list_files(SessionState& state, std::string_view) {
  const Snapshot& snapshot = *state.snapshot;
  std::string out;
  for (const pb::FileRecord& file : snapshot.files())
    out += fmt::format("{:<10} {:>9} {} {}{}\n", role_name(file.role()), human_size(file.size()),
                       file.embedded() ? "embedded " : "reference", printable(file.path()),
                       file.deleted() ? " (deleted)" : "");
  return out.empty() ? "The snapshot holds no files.\n" : out;
}

std::string list_missing(SessionState& state, std::string_view) {
  const Snapshot& snapshot = *state.snapshot;
  std::string out, kept;
  for (const pb::Missing& missing : snapshot.record().missing()) {
    out += fmt::format("{}", missing.pid());
    if (missing.tid() != 0) out += fmt::format(".{}", missing.tid());
    out += fmt::format(": {}: {}\n", printable(missing.resource()), printable(missing.reason()));
  }
  for (const pb::Process& process : snapshot.processes())
    for (const Snapshot::Lack& lack : snapshot.missing_memory(process))
      (lack.kept_by == KeptBy::kKernel ? kept : out) += fmt::format(
          "{}: {} of memory: {}\n", process.pid(), human_size(lack.bytes), printable(lack.reason));
  if (out.empty()) out = "Nothing is missing.\n";
  return kept.empty() ? out : out + "What nobody can read, the program neither:\n" + kept;
}

std::string end_connection(SessionState& state, std::string_view) {
  state.finished = true;
  return "";
}

MonitorHandler help;

struct MonitorCommand {
  std::string_view name, help;
  MonitorHandler* run;
};

constexpr MonitorCommand kCommands[] = {
    {"help", "this list", help},
    {"ps", "the processes of the snapshot and their threads", list_processes},
    {"process", "[PID]: how to look at another process", reach_process},
    {"files", "the files that the image holds or refers to", list_files},
    {"missing", "what is not in the snapshot, and why", list_missing},
    {"notes", "what was otherwise than in the snapshot when it last ran", list_notes},
    {"snapshots", "the snapshots of the image", list_snapshots},
    {"goto", "K: look at the K-th of them; what runs is dropped", go_to_snapshot},
    {"restart", "drop what runs, and look at the snapshot again", restart},
    {"again", "processes for gdb to detach from, or to attach to again", list_to_attach_again},
    {"diversion", "on|off: functions that are called from the snapshot leave no trace",
     choose_diversion},
    {"on-detach", "run|drop: what becomes of what runs", choose_on_detach},
    {"input", "TEXT: a line for the program's terminal", give_input},
    {"exit", "end this connection, and what runs", end_connection},
};

std::string help(SessionState&, std::string_view) {
  std::string out;
  for (const MonitorCommand& command : kCommands)
    out += fmt::format("monitor {:<9} {}\n", command.name, command.help);
  return out;
}

}  // namespace

std::string run_monitor(SessionState& state, std::string_view line) {
  line = trim(line);
  const std::string_view word = line.substr(0, line.find(' '));
  const std::string_view name = word.empty() ? "help" : word;
  const auto* found = std::ranges::find(kCommands, name, &MonitorCommand::name);
  if (found == std::end(kCommands))
    return fmt::format("There is no `monitor {}`. What there is:\n", printable(name)) +
           help(state, "");
  try {
    return found->run(state, trim(line.substr(word.size())));
  } catch (const Error& error) {
    return printable(error.what()) + "\n";
  }
}

}  // namespace snapgdb::gdbstub
