#include "core/inspect/backtrace.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

namespace snapgdb {
namespace {

std::string_view file_name(std::string_view path) {
  return path.substr(path.rfind('/') + 1);  // npos + 1 is 0
}

Frame to_frame(const RawFrame& raw, const Module& module, const SourceFrame& source) {
  Frame frame;
  frame.pc = raw.pc;
  frame.function = source.function;
  frame.file = source.file;
  frame.line = source.line;
  frame.column = source.column;
  frame.module = module.path;
  frame.module_offset = module.in_file(raw.pc);
  return frame;
}

}  // namespace

std::string function_or_place(const Frame& frame) {
  if (!frame.function.empty()) return frame.function;
  if (!frame.module_offset || frame.inlined) return "??";
  return fmt::format("{}+{:#x}", file_name(frame.module), *frame.module_offset);
}

struct Backtracer::PerProcess {
  PerProcess(const Snapshot& snapshot, const pb::Process& process, ElfFiles& files)
      : modules(snapshot, process, files), unwinder(snapshot, process, modules) {}

  ModuleMap modules;
  Unwinder unwinder;
};

Backtracer::Backtracer(std::shared_ptr<const Snapshot> snapshot)
    : snapshot_(std::move(snapshot)), files_(*snapshot_) {}

Backtracer::~Backtracer() = default;

Backtracer::PerProcess& Backtracer::per_process(const pb::Process& process) {
  auto& known = processes_[process.pid()];
  if (!known) known = std::make_unique<PerProcess>(*snapshot_, process, files_);
  return *known;
}

const ModuleMap& Backtracer::modules(const pb::Process& process) {
  return per_process(process).modules;
}

// One frame of the stack is several frames of the source where functions were inlined.
void Backtracer::add_frames(const ModuleMap& modules, const RawFrame& raw,
                            std::vector<Frame>& out) {
  const Module* module = modules.find(raw.lookup_pc());
  if (!module) {
    out.push_back({.pc = raw.pc, .signal_frame = raw.signal_frame, .guessed = raw.guessed});
    return;
  }
  const Naming& naming = symbolizer_.at(*module, raw.lookup_pc());
  for (const SourceFrame& source : naming.frames) {
    out.push_back(to_frame(raw, *module, source));
    out.back().inlined = true;
  }
  if (naming.frames.empty()) out.push_back(to_frame(raw, *module, {}));
  Frame& physical = out.back();
  physical.inlined = false;
  physical.signal_frame = raw.signal_frame;
  physical.guessed = raw.guessed;
  if (naming.function_start) physical.offset = module->in_file(raw.pc) - *naming.function_start;
}

Backtrace Backtracer::backtrace(const pb::Process& process, const pb::Thread& thread,
                                size_t max_frames) {
  PerProcess& known = per_process(process);
  RawStack stack = known.unwinder.unwind(thread, max_frames);
  Backtrace trace{.pid = process.pid(),
                  .tid = thread.tid(),
                  .name = thread.name(),
                  .end = stack.end,
                  .stopped_because = std::move(stack.why)};
  for (const RawFrame& raw : stack.frames) add_frames(known.modules, raw, trace.frames);
  return trace;
}

std::vector<Backtrace> Backtracer::backtraces(const pb::Process& process, size_t max_frames) {
  std::vector<Backtrace> traces;
  for (const pb::Thread& thread : process.threads())
    traces.push_back(backtrace(process, thread, max_frames));
  return traces;
}

std::vector<BacktraceGroup> group_backtraces(std::span<const Backtrace> backtraces) {
  // Within one process, equal program counters are equal frames.
  using Key = std::tuple<int32_t, std::vector<uint64_t>, std::string>;
  std::map<Key, size_t> group_of;
  std::vector<BacktraceGroup> groups;
  for (const Backtrace& trace : backtraces) {
    Key key{trace.pid, {}, trace.stopped_because};
    for (const Frame& frame : trace.frames) std::get<1>(key).push_back(frame.pc);
    const auto [entry, is_new] = group_of.try_emplace(std::move(key), groups.size());
    if (is_new) groups.emplace_back();
    groups[entry->second].push_back(&trace);
  }
  std::ranges::stable_sort(groups, std::ranges::greater{}, &BacktraceGroup::size);
  return groups;
}

}  // namespace snapgdb
