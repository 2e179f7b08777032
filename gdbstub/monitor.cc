#include "gdbstub/monitor.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "core/base/strings.h"

namespace snapgdb::gdbstub {
namespace {

std::string title(const pb::Process& process) {
  std::string line;
  for (const std::string& argument : process.arguments())
    (line += line.empty() ? "" : " ") += argument;
  return printable(line.empty() ? process.name() : line);
}

std::string list_processes(const Snapshot& snapshot, std::string_view) {
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

std::string reach_process(const Snapshot& snapshot, std::string_view argument) {
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

std::string list_files(const Snapshot& snapshot, std::string_view) {
  std::string out;
  for (const pb::FileRecord& file : snapshot.files())
    out += fmt::format("{:<10} {:>9} {} {}{}\n", role_name(file.role()), human_size(file.size()),
                       file.embedded() ? "embedded " : "reference", printable(file.path()),
                       file.deleted() ? " (deleted)" : "");
  return out.empty() ? "The snapshot holds no files.\n" : out;
}

std::string list_missing(const Snapshot& snapshot, std::string_view) {
  std::string out;
  for (const pb::Missing& missing : snapshot.record().missing()) {
    out += fmt::format("{}", missing.pid());
    if (missing.tid() != 0) out += fmt::format(".{}", missing.tid());
    out += fmt::format(": {}: {}\n", printable(missing.resource()), printable(missing.reason()));
  }
  for (const pb::Process& process : snapshot.processes())
    for (const Snapshot::Lack& lack : snapshot.missing_memory(process))
      out += fmt::format("{}: {} of memory: {}\n", process.pid(), human_size(lack.bytes),
                         printable(lack.reason));
  return out.empty() ? "Nothing is missing.\n" : out;
}

std::string help(const Snapshot&, std::string_view);

struct MonitorCommand {
  std::string_view name, help;
  std::string (*run)(const Snapshot&, std::string_view argument);
};

constexpr MonitorCommand kCommands[] = {
    {"help", "this list", help},
    {"ps", "the processes of the snapshot and their threads", list_processes},
    {"process", "[PID]: how to look at another process", reach_process},
    {"files", "the files that the image holds or refers to", list_files},
    {"missing", "what is not in the snapshot, and why", list_missing},
};

std::string help(const Snapshot&, std::string_view) {
  std::string out;
  for (const MonitorCommand& command : kCommands)
    out += fmt::format("monitor {:<8} {}\n", command.name, command.help);
  return out;
}

}  // namespace

std::string run_monitor(const Snapshot& snapshot, std::string_view line) {
  const auto words = split_blank(line);
  const std::string_view name = words.empty() ? "help" : words.front();
  const auto* found = std::ranges::find(kCommands, name, &MonitorCommand::name);
  if (found == std::end(kCommands))
    return fmt::format("There is no `monitor {}`. What there is:\n", printable(name)) +
           help(snapshot, "");
  return found->run(snapshot, words.size() > 1 ? words[1] : "");
}

}  // namespace snapgdb::gdbstub
