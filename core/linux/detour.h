#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "core/linux/signal_frame.h"
#include "core/linux/system_call_filter.h"
#include "core/linux/tracee.h"

namespace snapgdb {

// Makes a stopped task perform system calls that are not its program's, and brings it back to where
// it was: registers, signal mask, memory below its stack, a signal that was to be delivered, and an
// interrupted system call that will go on as if nothing had been.
//
// If we are killed meanwhile, the task finds home by itself: the way leads through a signal frame.
// What is lost then is the time already waited in a system call with a restart block, which begins
// again.
class Detour {
 public:
  // What it takes: code to go through, and memory that nobody needs, [low, high).
  struct Place {
    Gadgets gadgets;
    uint64_t low = 0, high = 0;
    uint64_t ignored = 0;                  // ignored_signals()
    std::optional<uint64_t> pending = {};  // of this very task: pending_signals(), if known
    // Of this very task. What they do not let pass is not tried: should we be killed on the way, it
    // would be the end of the program.
    std::vector<SystemCallFilter> filters = {};

    bool has_room_for(size_t scratch) const { return high - low >= scratch + kHomeSize; }
  };
  static constexpr size_t kHomeSize = 16 * 1024;  // the way home, with the largest XSAVE area (AMX)

  // Tells whether `task`, stopped, can make a detour now; otherwise why not.
  static std::optional<std::string> obstacle(const Tracee& task);

  // Preconditions: no obstacle(), and room. `scratch`: bytes of memory wanted in the task.
  Detour(Tracee& task, const Place& place, size_t scratch);
  Detour(const Detour&) = delete;
  Detour& operator=(const Detour&) = delete;
  ~Detour();

  uint64_t scratch() const { return scratch_; }  // address in the task, a multiple of 64
  const Gadgets& gadgets() const { return place_.gadgets; }
  Tracee& task() { return task_; }

  // Throw Error if the task cannot be made to.
  int64_t call(long number, const SystemCallArguments& arguments = {});  // -errno where it failed
  // Several calls, in one go where the program's code allows it: that takes one stop instead of two
  // a call. Arguments 5 and 6 do not count; 4 has to be the same in all, or 0. Results in the order
  // of the calls, -errno where one failed, cut to 32 bits. They, and the way from call to call,
  // take room_for() bytes at the end of the scratch memory.
  std::vector<int32_t> perform(std::span<const SystemCall> calls);
  // The same in parts. After begin(), the task is on its way, and others can be sent on theirs. One
  // that takes several goes waits between them for proceed(), or for finish(). proceed() waits for
  // no task that has not stopped; true: finish() has hardly anything left to wait for, unless the
  // calls have to be made one by one, which is all done there.
  void begin(std::span<const SystemCall> calls);
  bool proceed();
  std::vector<int32_t> finish();
  static constexpr size_t room_for(size_t calls) { return (calls + kOwnSteps) * kStepSize; }
  // Whether they are: then those of one go are all made, also if we are killed meanwhile.
  bool goes_by_itself() const { return end_signal() != 0; }
  // Whether no filter of system calls is in the way of this one, and of the way home.
  bool is_let_pass(const SystemCall& call) const;
  // clone(2), by the flags without a signal at its exit; the new task is ours from its birth on,
  // stopped before its first instruction, which is the `ret` at `stack`.
  Tracee clone(uint64_t flags, uint64_t stack);
  // Within the scratch memory. What is written is there when the task makes its next call.
  void write(uint64_t address, std::span<const std::byte> bytes);
  void read(uint64_t address, std::span<std::byte> out);

  // What the destructor does, for those who want to know whether it worked.
  void go_home();
  // Somebody still needs the scratch memory: it is not put back.
  void leave_scratch() { memory_.clear(); }

 private:
  void look();
  void write_to_task();
  void keep_signal();
  void queue_signal_again();
  void expect_let_pass(const SystemCall& call) const;
  static constexpr size_t kStepSize = 116;  // 14 words on the way, and a result
  static constexpr size_t kOwnSteps = 4;    // what tells us of its end, and alignment

  int end_signal() const;
  std::vector<uint64_t> way_through(std::span<const size_t> go) const;
  uint64_t results_at() const;
  void begin_go();
  void end_go();
  void wait_for_end();
  bool is_noise();
  void send_again(uint64_t signals) const;
  void leave_with(const user_regs_struct& registers, uint64_t mask);
  void leave_for(long number, const SystemCallArguments& arguments);
  void advance();
  void expect_stop(const char* doing);
  [[noreturn]] void fail(const char* doing, std::string why) const;

  Tracee& task_;
  Place place_;
  WaitStatus status_;  // it was in when we came
  uint64_t options_;   // the same
  uint64_t scratch_ = 0, home_ = 0;
  user_regs_struct registers_{};  // to come back to
  uint64_t mask_ = 0;
  Tracee::Known known_;
  std::vector<std::byte> memory_;  // what stood in [scratch_, scratch_ + size)
  // What stands there now, once it was looked at since the task last went on; and what of it we
  // have changed meanwhile.
  std::vector<std::byte> here_;
  bool is_known_ = false;
  struct {
    uint64_t low = ~uint64_t{0}, high = 0;
  } written_;
  bool away_ = false;
  std::vector<SystemCall> calls_;
  std::vector<int32_t> results_;
  int end_signal_ = 0;                     // 0: calls have to be performed one by one
  std::vector<std::vector<size_t>> goes_;  // not over yet, the last one first, by index of calls
  bool is_going_ = false;
  uint64_t came_ = 0;                // signals that others sent meanwhile, as a mask
  std::optional<siginfo_t> signal_;  // was to be delivered when we came, and will be
};

// The free memory below a stack pointer, where it lies on the stack of the main thread or on one
// with a guard region below (pthreads). Others (goroutines, coroutines) may be tiny.
struct FreeStack {
  uint64_t low = 0, high = 0;
};
std::optional<FreeStack> free_stack(const std::vector<ProcMapping>& mappings,
                                    uint64_t stack_pointer);

// The signals, as a mask, that this process (its /proc/PID/status) ignores, be it by default, and
// that nothing else comes with.
uint64_t ignored_signals(const ProcFields& status);
// Those that a task (/proc/PID/task/TID/status), or its process, has pending.
uint64_t pending_signals(const ProcFields& status);

// The child that `parent`, which was set going with PTRACE_O_TRACECLONE, gives birth to: ours,
// stopped before its first instruction. Throws Error if there is none.
Tracee take_over_clone(Tracee& parent);

// How long a task that was set going for one system call may take: fork(2) of a large one is slow.
inline constexpr std::chrono::seconds kDetourPatience{20};

}  // namespace snapgdb
