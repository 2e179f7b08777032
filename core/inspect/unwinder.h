#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/inspect/module_map.h"

namespace snapgdb {

struct RawFrame {
  uint64_t pc = 0;
  uint64_t sp = 0;  // 0: not known
  // pc is an instruction about to be executed (the innermost frame, or one that a signal
  // interrupted), not a return address, which may lie behind the end of the calling function.
  bool activation = false;
  bool signal_frame = false;  // the kernel's trampoline: a signal handler was called by it
  bool guessed = false;       // found by the frame pointer, for want of call frame information

  // An address within the instruction that this frame is at.
  uint64_t lookup_pc() const { return activation || pc == 0 ? pc : pc - 1; }
};

enum class StackEnd {
  kOutermost,  // the program's own end of the stack
  kLimit,      // there are more frames than were asked for
  kBroken,     // it goes on, but nobody can tell where
  kNone,       // there is no stack: a zombie
};

struct RawStack {
  std::vector<RawFrame> frames;  // innermost first
  StackEnd end = StackEnd::kOutermost;
  std::string why;  // unless kOutermost
};

inline constexpr size_t kMaxFrames = 1000;

// Unwinds the threads of one process with libdw, from the image alone: call frame information of
// the embedded files, .debug_frame of embedded debug files, frame pointers in code that has neither
// (made at run time, for example). Nothing is looked up on the disk of this machine. Not
// thread-safe.
class Unwinder {
 public:
  // All three must outlive the unwinder.
  Unwinder(const Snapshot& snapshot, const pb::Process& process, const ModuleMap& modules);
  ~Unwinder();

  RawStack unwind(const pb::Thread& thread, size_t max_frames = kMaxFrames);

 private:
  class Session;
  std::unique_ptr<Session> session_;
};

}  // namespace snapgdb
