#include "cli/show.h"

#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <map>
#include <optional>
#include <ranges>
#include <set>

#include <llvm/Support/FormatVariadic.h>

#include "cli/command.h"
#include "cli/image_options.h"
#include "cli/memory_account.h"
#include "cli/table.h"
#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/inspect/json.h"
#include "core/inspect/words.h"

namespace snapgdb::cli {
namespace {

// ---- Pieces -------------------------------------------------------------------------------------

std::string local_time(int64_t nanoseconds) {
  const time_t seconds = nanoseconds / 1'000'000'000;
  tm parts{};
  ::localtime_r(&seconds, &parts);
  char text[64];
  return {text, ::strftime(text, sizeof text, "%F %T %Z", &parts)};
}

std::string title(const pb::Process& process) {
  const std::string line = command_line(process);
  if (process.state() == "Z")
    return fmt::format("[{}] {}", printable(process.name()), exit_text(process.exit_status()));
  return line.empty() ? fmt::format("[{}]", printable(process.name())) : line;
}

std::string permissions(const pb::Vma& vma) {
  const uint32_t p = vma.protection();
  return {p & PROT_READ ? 'r' : '-', p & PROT_WRITE ? 'w' : '-', p & PROT_EXEC ? 'x' : '-',
          vma.shared() ? 's' : 'p'};
}

uint64_t captured_bytes(const Snapshot& snapshot, const pb::Process& process) {
  uint64_t bytes = 0;
  for (const pb::Vma& vma : process.mappings())
    bytes += snapshot.captured_bytes(process, vma.start(), vma.end());
  return bytes;
}

uint64_t resident_bytes(const pb::Process& process) {
  uint64_t bytes = 0;
  for (const pb::Vma& vma : process.mappings()) bytes += vma.rss();
  return bytes;
}

using Processes = std::vector<const pb::Process*>;

// ---- Sections -----------------------------------------------------------------------------------

struct Place {
  const pb::Process* process;
  size_t level;
};

// These and those below them, depth first, children in the order of the image. An image may have
// any chain of processes, or a circle.
std::vector<Place> places_in_tree(const Snapshot& snapshot, const Processes& roots) {
  std::map<int32_t, Processes> children;
  for (const pb::Process& process : snapshot.processes())
    children[process.parent()].push_back(&process);
  std::set<int32_t> seen;
  std::vector<Place> places, waiting;
  for (const pb::Process* root : roots | std::views::reverse) waiting.push_back({root, 0});
  while (!waiting.empty()) {
    const Place place = waiting.back();
    waiting.pop_back();
    if (!seen.insert(place.process->pid()).second) continue;
    places.push_back(place);
    for (const pb::Process* child : children[place.process->pid()] | std::views::reverse)
      waiting.push_back({child, place.level + 1});
  }
  return places;
}

void print_tree(const Snapshot& snapshot, const Processes& shown) {
  constexpr size_t kDeepest = 256;  // farther in there is nothing to be seen
  Table table({">PID", ">PARENT", ">THREADS", "STATE", ">RESIDENT", "COMMAND"});
  for (const auto& [process, level] : places_in_tree(snapshot, shown))
    table.add({std::to_string(process->pid()), std::to_string(process->parent()),
               std::to_string(process->threads_size()), process->state(),
               human_size(resident_bytes(*process)),
               std::string(2 * std::min(level, kDeepest), ' ') + title(*process)});
  table.print();
}

void print_threads(const Snapshot&, const Processes& shown) {
  Table table({">PID", ">TID", "STATE", ">CPU", "NAME", "SIGNAL", "CALL", "WAITS IN"});
  for (const pb::Process* process : shown)
    for (const pb::Thread& thread : process->threads())
      table.add({std::to_string(process->pid()), std::to_string(thread.tid()), thread.state(),
                 std::to_string(thread.cpu()), printable(thread.name()),
                 signal_name(thread.stop_signal()), system_call_of(thread).words,
                 printable(thread.wait_channel())});
  table.print();
}

void print_maps(const Snapshot& snapshot, const Processes& shown) {
  Table table(
      {">PID", "START", "END", "PERM", ">SIZE", ">RESIDENT", ">DIRTY", ">CAPTURED", "NAME"});
  for (const pb::Process* process : shown)
    for (const pb::Vma& vma : process->mappings())
      table.add({std::to_string(process->pid()), fmt::format("{:#014x}", vma.start()),
                 fmt::format("{:#014x}", vma.end()), permissions(vma),
                 human_size(vma.end() - vma.start()), human_size(vma.rss()),
                 human_size(vma.private_dirty()),
                 human_size(snapshot.captured_bytes(*process, vma.start(), vma.end())),
                 printable(vma.name()) + (vma.deleted() ? " (deleted)" : "")});
  table.print();
}

void print_descriptors(const Snapshot&, const Processes& shown) {
  Table table({">PID", ">FD", "KIND", "FLAGS", "TARGET", "DETAILS"});
  for (const pb::Process* process : shown)
    for_each_descriptor(*process, [&](const pb::Descriptor& descriptor) {
      const bool in_flight = descriptor.number() == kInFlight;
      table.add({std::to_string(process->pid()),
                 in_flight ? "in flight" : std::to_string(descriptor.number()),
                 descriptor_kind(descriptor), descriptor_flags(descriptor),
                 printable(descriptor.target()), descriptor_details(descriptor)});
    });
  table.print();
}

void print_files(const Snapshot& snapshot, const Processes&) {
  Table table({">SIZE", "ROLE", "BUILD-ID", "PATH", "REMARK"});
  for (const pb::FileRecord& file : snapshot.files()) {
    std::string role = pb::FileRole_Name(file.role()).substr(std::string_view("FILE_").size());
    std::ranges::transform(role, role.begin(), [](unsigned char c) { return std::tolower(c); });
    table.add({human_size(file.size()), role, to_hex(file.build_id()).substr(0, 12),
               printable(file.path()), printable(file.why_not_embedded())});
  }
  table.print();
}

void print_limits(const Snapshot&, const Processes& shown) {
  const auto text = [](uint64_t value) {
    return value == UINT64_MAX ? std::string("unlimited") : std::to_string(value);
  };
  Table table({">PID", "LIMIT", ">SOFT", ">HARD"});
  for (const pb::Process* process : shown)
    for (const pb::Limit& limit : process->limits())
      table.add(
          {std::to_string(process->pid()), limit.name(), text(limit.soft()), text(limit.hard())});
  table.print();
}

void print_environment(const Snapshot&, const Processes& shown) {
  Table table({">PID", "VARIABLE"});
  for (const pb::Process* process : shown)
    for (const std::string& variable : process->environment())
      table.add({std::to_string(process->pid()), printable(variable)});
  table.print();
}

// What is missing of no process in particular counts where all are shown.
std::vector<const pb::Missing*> missing_of(const Snapshot& snapshot, const Processes& shown) {
  const bool all = shown.size() == snapshot.processes().size();
  std::vector<const pb::Missing*> found;
  for (const pb::Missing& missing : snapshot.record().missing())
    if (all || std::ranges::any_of(shown, [&](const pb::Process* process) {
          return process->pid() == missing.pid();
        }))
      found.push_back(&missing);
  return found;
}

void print_missing(const Snapshot& snapshot, const Processes& shown) {
  Table table({">PID", ">TID", "MISSING", "REASON"});
  for (const pb::Missing* missing : missing_of(snapshot, shown))
    table.add({std::to_string(missing->pid()), std::to_string(missing->tid()),
               printable(missing->resource()), printable(missing->reason())});
  table.print();
}

// Of an image that was cut off, the record of the moment is lost: it is written last.
bool has_record(const Snapshot& snapshot) {
  return snapshot.record().realtime_ns() != 0;
}

void print_moment(const Snapshot& snapshot) {
  const pb::SnapshotRecord& record = snapshot.record();
  if (!has_record(snapshot)) {
    fmt::print("taken     not known: the image lacks its record of when, where, why and how\n");
    return;
  }
  fmt::print("taken     {} on {} (Linux {}, {})\n", local_time(record.realtime_ns()),
             printable(record.host().node_name()), printable(record.host().os_release()),
             printable(record.host().cpu_model()));
  fmt::print("reason    {}\n", printable(record.reason()));
  const auto secured = secured_by(snapshot);
  fmt::print("stopped   for {}, memory by {}\n", human_duration(record.pause_ns()),
             secured.front());
  for (const std::string& line : secured | std::views::drop(1)) fmt::print("          {}\n", line);
}

// The root comes first, whatever the order of the image: others may have come to the tree from
// elsewhere, or lost their parents.
void print_summary(const Snapshot& snapshot, const Processes& shown) {
  const pb::SnapshotRecord& record = snapshot.record();
  const pb::Process& root = snapshot.root();
  const auto missing = missing_of(snapshot, shown);
  size_t threads = 0;
  uint64_t memory = 0;
  std::set<uint32_t> spaces;
  for (const pb::Process& process : snapshot.processes()) {
    threads += static_cast<size_t>(process.threads_size());
    if (spaces.insert(process.address_space()).second) memory += captured_bytes(snapshot, process);
  }
  Processes roots = shown;
  std::ranges::stable_partition(roots, [&](const pb::Process* one) { return one == &root; });
  fmt::print("program   {}\n", title(*roots.front()));
  fmt::print("tree      {}, {}, root {}\n",
             counted(snapshot.processes().size(), "process", "processes"),
             counted(threads, "thread", "threads"), root.pid());
  print_moment(snapshot);
  fmt::print("memory    {} readable", human_size(memory));
  if (has_record(snapshot))
    fmt::print("; {} stored, {} shared, {} zero (files included)",
               human_size(record.stored_pages() * kPageSize),
               human_size(record.shared_pages() * kPageSize),
               human_size(record.zero_pages() * kPageSize));
  fmt::print("\n");
  fmt::print("files     {} carried\n",
             std::ranges::count_if(snapshot.files(), &pb::FileRecord::embedded));
  fmt::print("missing   {}\n",
             missing.empty() ? std::string("nothing") : counted(missing.size(), "thing", "things"));
  for (const std::string& line : left_out(snapshot)) fmt::print("left out  {}\n", line);
  fmt::print("\n");
  print_tree(snapshot, roots);
  if (missing.empty()) return;
  fmt::print("\n");
  print_missing(snapshot, shown);
}

struct Section {
  const char* name;
  const char* help;
  void (*print)(const Snapshot&, const Processes&);
  std::vector<const char*> fields = {};  // of pb::Process, for --json; none: of the snapshot
  bool of_all = false;                   // says nothing about a single process
};
const Section kSections[] = {
    {"summary", "the snapshot in a few lines", print_summary},
    {"tree", "the process tree", print_tree},
    {"threads", "every thread", print_threads, {"threads"}},
    {"maps", "memory maps", print_maps, {"mappings"}},
    {"fds", "descriptors", print_descriptors, {"descriptors", "in_flight"}},
    {"limits", "resource limits", print_limits, {"limits"}},
    {"env", "environments", print_environment, {"environment"}},
    {"files", "executables, libraries and debug files carried", print_files, {}, true},
    {"missing", "what is not in the image, and why", print_missing},
};

// ---- JSON ---------------------------------------------------------------------------------------

llvm::json::Value process_json(const pb::Process& process, const Section& section) {
  if (section.fields.empty()) return to_json(process);
  llvm::json::Object whole = *to_json(process).getAsObject();
  llvm::json::Object shown{{"pid", process.pid()}};
  for (const char* field : section.fields) shown[field] = *whole.get(field);
  return shown;
}

// The names and units are those of core/image/snapshot.proto.
void print_json(const Snapshot& snapshot, const Processes& shown, const Section& section) {
  llvm::json::Array processes, files;
  for (const pb::Process* process : shown) processes.push_back(process_json(*process, section));
  llvm::json::Object out{{"snapshot", to_json(snapshot.record())},
                         {"processes", std::move(processes)}};
  if (section.fields.empty()) {
    for (pb::FileRecord file : snapshot.files()) {
      file.clear_content();
      files.push_back(to_json(file));
    }
    out["files"] = std::move(files);
    out["address_spaces"] = address_spaces_json(snapshot, shown);
  }
  fmt::print("{}\n", llvm::formatv("{0:2}", llvm::json::Value(std::move(out))).str());
}

// ---- The command --------------------------------------------------------------------------------

struct Arguments {
  std::string image, section = "summary";
  std::optional<int> pid = {};
  bool json = false;
  OpenOptions open;
};

Processes chosen(const Snapshot& snapshot, std::optional<int> pid) {
  Processes shown;
  for (const pb::Process& process : snapshot.processes())
    if (!pid || process.pid() == *pid) shown.push_back(&process);
  if (pid && shown.empty())
    throw Error(fmt::format("cannot show process {}", *pid), "it is not in the image");
  return shown;
}

int show(const Arguments& arguments) {
  const Section& section = *std::ranges::find(kSections, arguments.section, &Section::name);
  if (arguments.pid && section.of_all)
    throw Error(fmt::format("cannot show the {} of process {}", section.name, *arguments.pid),
                "the image has them for all processes", "maps --pid names those of one",
                ExitStatus::kUsage);
  const auto snapshot = open_snapshot(arguments.image, arguments.open);
  const Processes shown = chosen(*snapshot, arguments.pid);
  if (arguments.json)
    print_json(*snapshot, shown, section);
  else
    section.print(*snapshot, shown);
  return report_lost(*snapshot, arguments.image);
}

Action define(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  app.add_option("IMG", arguments->image, "Image; IMG@K is its K-th snapshot")->required();
  std::vector<std::string> names;
  std::string help = "What to show [summary]:";
  for (const Section& section : kSections) {
    names.push_back(section.name);
    help += fmt::format("\n{} - {}", section.name, section.help);
  }
  app.add_option("SECTION", arguments->section, help)->check(CLI::IsMember(names));
  app.add_option("--pid", arguments->pid, "Only this process");
  app.add_flag("--json", arguments->json, "As JSON, with the names of the schema");
  add_open_options(app, arguments->open);
  return [arguments] { return show(*arguments); };
}

}  // namespace

int show_summary(const std::string& image, const OpenOptions& open, std::optional<int> pid) {
  return show({.image = image, .pid = pid, .open = open});
}

const Command kShowCommand{"show", "What is in an image", define};

}  // namespace snapgdb::cli
