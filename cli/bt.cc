#include <llvm/Support/FormatVariadic.h>
#include <llvm/Support/JSON.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cli/command.h"
#include "cli/image_options.h"
#include "core/base/error.h"
#include "core/base/say.h"
#include "core/base/strings.h"
#include "core/inspect/backtrace.h"
#include "core/inspect/words.h"

namespace snapgdb::cli {
namespace {

struct Arguments {
  std::string image;
  std::string which;
  size_t max_frames = kMaxFrames;
  bool json = false;
  bool no_group = false;
  OpenOptions open;
};

// ---- Whose backtraces ------------------------------------------------------------------------

// "PID" or "PID.TID"; nothing: all.
struct Selection {
  std::optional<int32_t> pid, tid;

  bool has(const pb::Process& process) const { return !pid || process.pid() == *pid; }
  bool has(const pb::Thread& thread) const { return !tid || thread.tid() == *tid; }
};

Selection parse_selection(const std::string& which) {
  if (which.empty()) return {};
  const size_t dot = which.find('.');
  const auto pid = parse_number<int32_t>(which.substr(0, dot));
  const auto tid = dot == which.npos ? std::nullopt : parse_number<int32_t>(which.substr(dot + 1));
  if (!pid || (dot != which.npos && !tid))
    throw Error(fmt::format("cannot make a backtrace of {}", which), "it is not PID or PID.TID", "",
                ExitStatus::kUsage);
  return {pid, tid};
}

// What to type instead, where the number given is that of a thread.
std::string hint(const Snapshot& snapshot, const Arguments& arguments, int32_t number) {
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Thread& thread : process.threads())
      if (thread.tid() == number)
        return fmt::format("it is a thread of another process: {}.{}", process.pid(), number);
  return fmt::format("snapgdb show {} threads lists them", arguments.image);
}

// Throws Error if the selection names what is not there.
void check(const Selection& selection, const Snapshot& snapshot, const Arguments& arguments) {
  if (!selection.pid) return;
  const std::string tried = fmt::format("cannot make a backtrace of {}", arguments.which);
  const pb::Process* process = snapshot.process(*selection.pid);
  if (!process)
    throw Error(tried, fmt::format("{} has no process {}", arguments.image, *selection.pid),
                hint(snapshot, arguments, *selection.pid));
  if (!selection.tid) return;
  if (std::ranges::none_of(process->threads(),
                           [&](const pb::Thread& thread) { return selection.has(thread); }))
    throw Error(tried, fmt::format("process {} has no thread {}", process->pid(), *selection.tid),
                hint(snapshot, arguments, *selection.tid));
}

std::vector<Backtrace> backtraces(Backtracer& tracer, const pb::Process& process,
                                  const Selection& selection, size_t max_frames) {
  std::vector<Backtrace> traces;
  for (const pb::Thread& thread : process.threads())
    if (selection.has(thread)) traces.push_back(tracer.backtrace(process, thread, max_frames));
  return traces;
}

// ---- Whom a signal was about to end ----------------------------------------------------------

struct Fatal {
  const pb::Process* process = nullptr;
  const pb::Thread* thread = nullptr;

  std::string signal() const { return signal_name(thread->stop_signal()); }
  bool has(const Backtrace* trace) const {
    return trace->pid == process->pid() && trace->tid == thread->tid();
  }
};

// The thread in focus is that, if the reason says so: "SIGSEGV in 12.14" (snapgdb run).
std::optional<Fatal> fatal_in(const Snapshot& snapshot, const Selection& selection) {
  const pb::SnapshotRecord& record = snapshot.record();
  const pb::Process* process = snapshot.process(record.focus_pid());
  if (!process || !selection.has(*process)) return std::nullopt;
  const auto thread = std::ranges::find(process->threads(), record.focus_tid(), &pb::Thread::tid);
  if (thread == process->threads().end() || !selection.has(*thread)) return std::nullopt;
  const Fatal fatal{process, &*thread};
  if (!thread->stop_signal() || !record.reason().starts_with(fatal.signal() + " in "))
    return std::nullopt;
  return fatal;
}

using Processes = std::vector<const pb::Process*>;

// Its process comes first, and the rest as the image has it.
Processes in_order(const Snapshot& snapshot, const Selection& selection,
                   const std::optional<Fatal>& first) {
  Processes processes;
  for (const pb::Process& process : snapshot.processes())
    if (selection.has(process)) processes.push_back(&process);
  if (first)
    std::ranges::stable_partition(
        processes, [&](const pb::Process* process) { return process == first->process; });
  return processes;
}

// ---- For people ------------------------------------------------------------------------------

// "main ()" like gdb; most C++ names bring their parameters along.
std::string function_text(const Frame& frame) {
  if (frame.signal_frame) return "<signal handler called>";
  const std::string name = printable(function_or_place(frame));
  const bool whole = name.ends_with(')') || name.ends_with(']') || name.ends_with(" const");
  return frame.function.empty() || whole ? name : name + " ()";
}

std::string where_text(const Frame& frame) {
  if (frame.signal_frame) return "";
  if (!frame.file.empty() && frame.line)
    return fmt::format(" at {}:{}", printable(frame.file), frame.line);
  return frame.module.empty() ? "" : " from " + printable(frame.module);
}

void print_frames(const Backtrace& trace) {
  for (size_t i = 0; i < trace.frames.size(); ++i) {
    const Frame& frame = trace.frames[i];
    const std::string pc = frame.inlined ? "(inlined)" : fmt::format("{:#018x}", frame.pc);
    fmt::print("#{:<2} {:<18} in {}{}{}\n", i, pc, function_text(frame), where_text(frame),
               frame.guessed ? " (guessed)" : "");
  }
  if (trace.end != StackEnd::kOutermost)
    fmt::print("     ({}: {})\n", trace.end == StackEnd::kNone ? "no stack" : "stopped here",
               printable(trace.stopped_because));
}

std::string thread_text(const Backtrace& trace) {
  return fmt::format("{}.{} \"{}\"", trace.pid, trace.tid, printable(trace.name));
}

// In the words of show's summary.
std::string fatal_text(const Fatal& fatal) {
  const Backtrace of_it{
      .pid = fatal.process->pid(), .tid = fatal.thread->tid(), .name = fatal.thread->name()};
  return fmt::format("{} in {}", fatal.signal(), thread_text(of_it));
}

constexpr size_t kThreadsNamed = 10;

void print_group(const BacktraceGroup& group) {
  std::string threads;
  for (const Backtrace* trace : std::span(group).first(std::min(group.size(), kThreadsNamed)))
    threads += (threads.empty() ? "" : ", ") + thread_text(*trace);
  if (group.size() > kThreadsNamed)
    threads += fmt::format(" and {} more", group.size() - kThreadsNamed);
  fmt::print("\n{}: {}\n", counted(group.size(), "thread", "threads"), threads);
  print_frames(*group.front());
}

std::string command_line(const pb::Process& process) {
  std::string line;
  for (const std::string& argument : process.arguments()) line += " " + printable(argument);
  return line.empty() ? fmt::format(" [{}]", printable(process.name())) : line;
}

// Also within its group, of which not all threads are named.
void put_first(const Fatal& fatal, std::vector<BacktraceGroup>& groups) {
  const auto is_it = [&](const Backtrace* trace) { return fatal.has(trace); };
  for (BacktraceGroup& group : groups) std::ranges::stable_partition(group, is_it);
  std::ranges::stable_partition(groups, is_it,
                                [](const BacktraceGroup& group) { return group.front(); });
}

void print_process(const pb::Process& process, const std::vector<Backtrace>& traces,
                   const std::optional<Fatal>& fatal, const Arguments& arguments) {
  fmt::print("process {}:{}\n", process.pid(), command_line(process));
  if (traces.empty()) fmt::print("\nno threads\n");
  if (arguments.no_group) {
    for (const Backtrace& trace : traces) print_group({&trace});
    return;
  }
  std::vector<BacktraceGroup> groups = group_backtraces(traces);
  if (fatal && fatal->process == &process) put_first(*fatal, groups);
  for (const BacktraceGroup& group : groups) print_group(group);
}

// ---- For scripts: the fields are described in docs/backtraces.md --------------------------------

using llvm::json::Value;

Value text_or_null(const std::string& text) {
  return text.empty() ? Value(nullptr) : Value(printable(text));
}
Value number_or_null(uint64_t number) {
  return number ? Value(number) : Value(nullptr);
}
Value hex(uint64_t number) {
  return fmt::format("{:#x}", number);
}

Value frame_json(const Frame& frame) {
  return llvm::json::Object{
      {"pc", hex(frame.pc)},
      {"function", text_or_null(frame.function)},
      {"offset", frame.offset ? Value(*frame.offset) : Value(nullptr)},
      {"file", text_or_null(frame.file)},
      {"line", number_or_null(frame.line)},
      {"column", number_or_null(frame.column)},
      {"module", text_or_null(frame.module)},
      {"module_offset", frame.module_offset ? hex(*frame.module_offset) : Value(nullptr)},
      {"inlined", frame.inlined},
      {"signal_frame", frame.signal_frame},
      {"guessed", frame.guessed}};
}

const char* end_name(StackEnd end) {
  static const std::map<StackEnd, const char*> kNames = {{StackEnd::kOutermost, "outermost"},
                                                         {StackEnd::kLimit, "limit"},
                                                         {StackEnd::kBroken, "broken"},
                                                         {StackEnd::kNone, "none"}};
  return kNames.at(end);
}

Value thread_json(const Backtrace& trace) {
  llvm::json::Array frames;
  for (const Frame& frame : trace.frames) frames.push_back(frame_json(frame));
  return llvm::json::Object{{"tid", trace.tid},
                            {"name", printable(trace.name)},
                            {"frames", std::move(frames)},
                            {"end", end_name(trace.end)},
                            {"stopped_because", text_or_null(trace.stopped_because)}};
}

Value process_json(const pb::Process& process, const std::vector<Backtrace>& traces) {
  llvm::json::Array threads, arguments;
  for (const Backtrace& trace : traces) threads.push_back(thread_json(trace));
  for (const std::string& argument : process.arguments()) arguments.push_back(printable(argument));
  return llvm::json::Object{{"pid", process.pid()},
                            {"name", printable(process.name())},
                            {"arguments", std::move(arguments)},
                            {"threads", std::move(threads)}};
}

Value fatal_json(const std::optional<Fatal>& fatal) {
  if (!fatal) return nullptr;
  return llvm::json::Object{
      {"signal", fatal->signal()}, {"pid", fatal->process->pid()}, {"tid", fatal->thread->tid()}};
}

// ---- What is missing -------------------------------------------------------------------------

constexpr size_t kReasonsShown = 10;

// Counts the incomplete ones by reason, in the order of their first appearance.
class Shortcomings {
 public:
  void add(const std::vector<Backtrace>& traces) {
    for (const Backtrace& trace : traces) {
      if (!trace.incomplete()) continue;
      if (reasons_.size() < kReasonsShown) reasons_.try_emplace(trace.stopped_because, trace);
      ++count_;
    }
  }

  // `problems`: of files that the backtraces were made with.
  int report(std::vector<std::string> problems) const {
    std::erase_if(problems, [&](const std::string& one) { return reasons_.contains(one); });
    std::fflush(stdout);
    report_stopped();
    for (const std::string& problem : problems)
      say("snapgdb: frames, names or lines may be missing: {}\n", problem);
    return static_cast<int>(count_ == 0 && problems.empty() ? ExitStatus::kDone
                                                            : ExitStatus::kIncomplete);
  }

 private:
  void report_stopped() const {
    if (count_ == 0) return;
    say("snapgdb: {} {} incomplete:\n", counted(count_, "backtrace", "backtraces"),
        count_ == 1 ? "is" : "are");
    for (const auto& [reason, trace] : reasons_)
      say("  {}: {}\n", thread_text(trace), printable(reason));
  }

  std::map<std::string, Backtrace> reasons_;
  size_t count_ = 0;
};

// ---- The command -----------------------------------------------------------------------------

using TracesOf = std::function<std::vector<Backtrace>(const pb::Process&)>;

void print_json(const Processes& shown, const std::optional<Fatal>& fatal,
                const TracesOf& traces_of) {
  llvm::json::Array processes;
  for (const pb::Process* process : shown)
    processes.push_back(process_json(*process, traces_of(*process)));
  Value out =
      llvm::json::Object{{"fatal_signal", fatal_json(fatal)}, {"processes", std::move(processes)}};
  fmt::print("{}\n", llvm::formatv("{0:2}", out).str());
}

void print(const Processes& shown, const std::optional<Fatal>& fatal, const Arguments& arguments,
           const TracesOf& traces_of) {
  const char* separator = "";
  if (fatal) {
    fmt::print("{}\n", fatal_text(*fatal));
    separator = "\n";
  }
  for (const pb::Process* process : shown) {
    fmt::print("{}", std::exchange(separator, "\n"));
    print_process(*process, traces_of(*process), fatal, arguments);
  }
}

int bt(const Arguments& arguments) {
  const Selection selection = parse_selection(arguments.which);
  const auto snapshot = open_snapshot(arguments.image, arguments.open);
  check(selection, *snapshot, arguments);

  Backtracer tracer(snapshot);
  Shortcomings shortcomings;
  const auto traces_of = [&](const pb::Process& process) {
    auto traces = backtraces(tracer, process, selection, arguments.max_frames);
    shortcomings.add(traces);
    return traces;
  };
  const std::optional<Fatal> fatal = fatal_in(*snapshot, selection);
  if (arguments.json)
    print_json(in_order(*snapshot, selection, std::nullopt), fatal, traces_of);
  else
    print(in_order(*snapshot, selection, arguments.no_group ? std::nullopt : fatal), fatal,
          arguments, traces_of);
  const int lost = report_lost(*snapshot, arguments.image);
  return std::max(lost, shortcomings.report(tracer.problems()));
}

Action define(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  app.add_option("IMG", arguments->image, "Image; IMG@K is its K-th snapshot")->required();
  app.add_option("PID[.TID]", arguments->which, "Only this process, or this thread of it");
  app.add_option("--frames", arguments->max_frames,
                 "How many frames of each stack, inlined ones not counted")
      ->check(CLI::Range(size_t{1}, size_t{INT32_MAX}))
      ->capture_default_str();
  app.add_flag("--no-group", arguments->no_group, "Each thread by itself, in the image's order");
  app.add_flag("--json", arguments->json, "As JSON, each thread by itself");
  add_open_options(app, arguments->open);
  app.footer("Exit status 3: something that stacks or names are read from is not in the image.");
  return [arguments] { return bt(*arguments); };
}

}  // namespace

const Command kBacktraceCommand{"bt", "Backtraces of all threads, equal stacks told once", define};

}  // namespace snapgdb::cli
