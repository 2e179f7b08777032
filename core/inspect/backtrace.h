#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/inspect/symbolizer.h"
#include "core/inspect/unwinder.h"

namespace snapgdb {

struct Frame {
  uint64_t pc = 0;            // of an inlined function: that of the function it was inlined into
  bool inlined = false;       // into the next frame, whose stack frame it shares
  bool signal_frame = false;  // the kernel called a signal handler here
  bool guessed = false;       // found by the frame pointer alone, so perhaps no frame at all
  std::string function;       // demangled; "": not known
  std::optional<uint64_t> offset;         // of pc in the function, unless inlined
  std::string file;                       // "": not known
  uint32_t line = 0;                      // 0: not known
  uint32_t column = 0;                    // 0: not known
  std::string module;                     // path of the ELF file, "[vdso]", or "": none
  std::optional<uint64_t> module_offset;  // pc as an address of that file, as addr2line takes it

  bool operator==(const Frame&) const = default;
};

// The function, or what is known instead: "libfoo.so+0x1234" where symbols were stripped, "??".
std::string function_or_place(const Frame& frame);

struct Backtrace {
  int32_t pid = 0;
  int32_t tid = 0;
  std::string name;           // of the thread
  std::vector<Frame> frames;  // innermost first
  StackEnd end = StackEnd::kOutermost;
  std::string stopped_because;  // "" if end is kOutermost

  // Whether frames are missing, for want of something in the image (or of the stack being sound).
  bool incomplete() const { return end == StackEnd::kBroken; }
};

// Makes backtraces of the threads of a snapshot, from nothing but the snapshot. What was read of a
// file or a process is kept, so use one for many threads, but not from several threads at once.
class Backtracer {
 public:
  explicit Backtracer(std::shared_ptr<const Snapshot> snapshot);
  ~Backtracer();

  // Both records must be of the snapshot. Throws Error only if libdw cannot be used at all.
  Backtrace backtrace(const pb::Process& process, const pb::Thread& thread,
                      size_t max_frames = kMaxFrames);
  // Those of all threads of a process, in their order.
  std::vector<Backtrace> backtraces(const pb::Process& process, size_t max_frames = kMaxFrames);

  const ModuleMap& modules(const pb::Process& process);
  // Why frames, names and lines may be missing from what was made so far: files of the image that
  // cannot be read, or not as a whole.
  std::vector<std::string> problems() const { return files_.problems(); }

 private:
  struct PerProcess;
  PerProcess& per_process(const pb::Process& process);
  void add_frames(const ModuleMap& modules, const RawFrame& raw, std::vector<Frame>& out);

  std::shared_ptr<const Snapshot> snapshot_;
  ElfFiles files_;
  Symbolizer symbolizer_;
  std::map<int32_t, std::unique_ptr<PerProcess>> processes_;
};

// Threads of one process that stand at the same place: one stack, told once.
using BacktraceGroup = std::vector<const Backtrace*>;  // never empty

// The largest group first; equally large ones, and the threads of one, in the order they came in.
std::vector<BacktraceGroup> group_backtraces(std::span<const Backtrace> backtraces);

}  // namespace snapgdb
