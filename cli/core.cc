#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/command.h"
#include "cli/image_options.h"
#include "cli/output.h"
#include "cli/progress_line.h"
#include "core/base/error.h"
#include "core/base/say.h"
#include "core/base/strings.h"
#include "elfconv/core_destination.h"
#include "elfconv/core_file.h"
#include "elfconv/file_export.h"

namespace snapgdb::cli {
namespace {

// So many lines say what one core lacks; the rest is counted.
constexpr size_t kMaxLines = 10;

struct Arguments {
  std::string image;
  std::string output;
  std::optional<int32_t> pid;
  bool files = false;
  OpenOptions open;
};

std::vector<const pb::Process*> chosen_processes(const Snapshot& snapshot,
                                                 const Arguments& arguments) {
  std::vector<const pb::Process*> chosen;
  for (const pb::Process& process : snapshot.processes())
    if (!arguments.pid || process.pid() == *arguments.pid) chosen.push_back(&process);
  if (chosen.empty())
    throw Error(fmt::format("cannot write a core of process {}", *arguments.pid),
                fmt::format("{} has no such process", arguments.image),
                fmt::format("snapgdb show {} tree lists them", arguments.image));
  return chosen;
}

// Drops the processes no core can be made of, and says so. A zombie is nothing that is missing.
std::vector<const pb::Process*> with_core(const Snapshot& snapshot,
                                          std::vector<const pb::Process*> processes,
                                          bool& complete) {
  std::erase_if(processes, [&](const pb::Process* process) {
    const std::string why = why_no_core(snapshot, *process);
    if (why.empty()) return false;
    const auto line = fmt::format("process {} ({}) has no core: {}", process->pid(),
                                  printable(process->name()), why);
    say("snapgdb: {}\n", line);
    if (process->state() != "Z" && process->state() != "X") complete = false;
    return true;
  });
  if (processes.empty()) throw Error("cannot write a core", "no process is left to make one of");
  return processes;
}

void print_missing(const std::string& of, const std::vector<std::string>& lines) {
  for (size_t i = 0; i < std::min(lines.size(), kMaxLines); ++i)
    say("snapgdb: {} lacks {}\n", of, lines[i]);
  if (lines.size() > kMaxLines)
    say("snapgdb: {} lacks {} other things\n", of, lines.size() - kMaxLines);
}

// Returns whether the core is complete.
bool write_one(const Snapshot& snapshot, const pb::Process& process, const std::string& image,
               const std::string& path, bool salvage) {
  WrittenCore written;
  {
    ProgressLine line(path);
    try {
      written =
          write_core(snapshot, process, path, {.salvage = salvage, .progress = line.progress()});
    } catch (const SystemError&) {
      throw;  // of the core's own file, which it names
    } catch (const Error& error) {
      if (std::string_view(error.what()).starts_with("cannot write " + path)) throw;  // the same
      throw error.within(image);
    }
  }
  fmt::print("{}\t{} ({} without its holes)\n", path, human_size(written.size),
             human_size(written.data));
  std::fflush(stdout);
  print_missing(path, written.missing);
  return written.missing.empty();
}

std::string shell_quoted(const std::string& text) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+-:@%";
  if (!text.empty() && text.find_first_not_of(kPlain) == text.npos) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

// Returns whether all files are there.
bool export_beside(const Snapshot& snapshot, const CoreDestination& destination,
                   const pb::Process& process) {
  const std::filesystem::path root = std::filesystem::path(destination.directory) / "files";
  const ExportedFiles exported = export_files(snapshot, root.string());
  fmt::print("{}/\t{} in {} files\n", root.string(), human_size(exported.size), exported.count);
  std::fflush(stdout);
  print_missing(root.string(), exported.missing);
  const auto executable = exported.paths.find(process.executable_file());
  if (executable == exported.paths.end()) return exported.missing.empty();
  say("snapgdb: to open it anywhere: gdb -iex {} {} {}\n",
      shell_quoted("set sysroot " + root.string()),
      shell_quoted((root / executable->second).string()), shell_quoted(destination.paths.front()));
  return exported.missing.empty();
}

int write_cores(const Arguments& arguments) {
  if (arguments.output == "-")
    throw Error("cannot write a core to standard output", "a core needs a file that can be seeked",
                "give -o FILE", ExitStatus::kUsage);
  take_failed_writes_for_errors();
  const auto snapshot = open_snapshot(arguments.image, arguments.open);
  bool complete = report_lost(*snapshot, arguments.image) == 0;
  const auto processes = with_core(*snapshot, chosen_processes(*snapshot, arguments), complete);
  const CoreDestination destination = core_destination(arguments.output, processes);
  for (size_t i = 0; i < processes.size(); ++i)
    complete &= write_one(*snapshot, *processes[i], arguments.image, destination.paths[i],
                          arguments.open.salvage);
  if (arguments.files) complete &= export_beside(*snapshot, destination, *processes.front());
  return static_cast<int>(complete ? ExitStatus::kDone : ExitStatus::kIncomplete);
}

Action define(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  app.add_option("IMG", arguments->image, "the image, or IMG@K for its K-th snapshot")->required();
  app.add_option("-o", arguments->output,
                 "the directory for the cores, or the file for a single one (default: the current "
                 "directory)");
  app.add_option("--pid", arguments->pid, "only this process");
  add_open_options(app, arguments->open);
  app.add_flag("--files", arguments->files,
               "write the image's executables and libraries to files/ beside the cores, for "
               "machines that lack them");
  return [arguments] { return write_cores(*arguments); };
}

}  // namespace

const Command kCoreCommand = {"core", "Write an ELF core of each process", define};

}  // namespace snapgdb::cli
