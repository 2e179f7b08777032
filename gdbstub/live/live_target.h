#pragma once

#include <array>
#include <cerrno>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/linux/terminal.h"
#include "core/linux/tracee.h"
#include "core/restore.h"
#include "gdbstub/live/debug_registers.h"
#include "gdbstub/live/live_files.h"
#include "gdbstub/live/live_memory.h"
#include "gdbstub/live/program_terminal.h"
#include "gdbstub/running_target.h"
#include "gdbstub/snapshot_target.h"

namespace snapgdb::gdbstub {

// A restored tree, isolated, under our ptrace.
class LiveTarget : public RunningTarget {
 public:
  // With what was changed in `from`; without a terminal, the program has our own standard streams.
  // Throws Error: what is in the way.
  LiveTarget(const SnapshotTarget& from, std::span<const Pid> attached,
             std::unique_ptr<ProgramTerminal> terminal);
  LiveTarget(const LiveTarget&) = delete;
  LiveTarget& operator=(const LiveTarget&) = delete;
  ~LiveTarget() override;

  // ---- Looking ----
  std::vector<Pid> processes() const override;
  std::vector<Tid> threads(Pid pid) const override;
  bool has(ThreadId thread) const override;
  Tid focus(Pid pid) const override;
  ThreadDescription describe(ThreadId thread) const override;
  size_t read_memory(Pid pid, uint64_t address, std::span<std::byte> out) const override;
  bool write_memory(Pid pid, uint64_t address, std::span<const std::byte> bytes) override;
  std::optional<Mapping> mapping_at_or_after(Pid pid, uint64_t address) const override;
  const RegisterLayout& layout() const override { return layout_; }
  RegisterSet registers(ThreadId thread) const override;
  void set_registers(ThreadId thread, RegisterSet registers) override;
  std::optional<std::string> siginfo(ThreadId thread) const override;
  std::optional<std::string> auxv(Pid pid) const override;
  std::optional<std::string> executable(Pid pid) const override;
  const FileSystem* files() const override { return &files_; }

  // ---- Running ----
  int event_descriptor() const override { return readable_.get(); }
  std::optional<Event> next_event() override;
  void set_wishes(Wishes wishes) override { wishes_ = std::move(wishes); }
  void resume(std::span<const ResumeAction> actions, std::span<const ThreadId> kept) override;
  void stop(std::optional<Pid> pid, std::optional<Tid> tid) override;
  void halt() override;
  void interrupt() override;
  bool runs(ThreadId thread) const override;
  bool stands_still() const override;

  bool insert(Pid pid, const Breakpoint& breakpoint) override;
  bool remove(Pid pid, const Breakpoint& breakpoint) override;
  bool set_siginfo(ThreadId thread, std::string_view siginfo) override;

  bool allocate(Pid pid, const Mapping& mapping) override;
  bool release(Pid pid, const Mapping& mapping) override;

  void attach(Pid pid) override;
  void detach(Pid pid) override;
  void kill(Pid pid) override;
  std::vector<pb::Process> records() const override;
  IpcObjects ipc_objects() const override;
  std::vector<std::string> notes() const override;
  void let_go() override;
  std::string take_output() override {
    return std::exchange(printed_, {}) + (terminal_ ? terminal_->take_output() : "");
  }
  void send_input(std::string_view text) override;

 private:
  struct Process {
    Pid real;                            // as we see it, outside of the tree's namespace
    std::shared_ptr<LiveMemory> memory;  // of vfork(2): its parent's
    DebugRegisters debug_registers;
    uint64_t debug_generation = 1;  // of debug_registers
    // Stacks and thread-local memory in which something is watched step by step.
    struct Home {
      uint64_t low = 0, high = 0;
      ThreadId of;
    };
    std::vector<Home> homes = {};

    DebugRegisters::Read reader() const {
      return [this](uint64_t address, auto out) { return memory->read(address, out); };
    }
  };
  // One that we do not trace. Its number may be another's when it has ended.
  struct Free {
    Pid real;
    uint64_t start_ticks = 0;
    static Free of(Pid real);
    bool is_there() const;
  };
  // Why a running thread was asked to stop.
  enum class Asked { kNothing, kHalt, kPause, kStop, kInterrupt };
  struct Thread {
    ThreadId id;
    Tracee task;
    ResumeAction wanted = {};
    Asked asked = Asked::kNothing;
    int deliver = 0;            // the signal that it gets when it goes on
    int unreported = 0;         // a signal of which the client knows already
    bool moved = false;         // by the client, since it stopped: a signal was meant for elsewhere
    bool trapped = false;       // its signal is that of a breakpoint
    bool passes = false;        // has come to a breakpoint that is not to be reported
    bool prints = false;        // and whose commands are to be performed
    bool steps_for_us = false;  // instruction by instruction, of which the client hears nothing
    std::optional<uint64_t> goes_past = {};  // a breakpoint, at that address, in these moments
    // What its last step has changed, as was seen after one of another's.
    std::optional<DebugRegisters::Met> changed = {};
    // Its child by vfork(2): it cannot be stopped before that has let go of its memory.
    std::optional<Pid> vfork_child = {};
    bool lends_memory = false;      // to one by vfork(2) that nobody traces: without breakpoints
    uint64_t debug_generation = 0;  // what its debug registers hold
    // Of one that was in a system call in the snapshot: registers as they were, and as they are, so
    // that the call begins anew.
    struct Restart {
      user_regs_struct recorded, actual;
    };
    std::optional<Restart> restart = {};
    // Where job control has stopped it. For a function that the client calls it leaves the stop,
    // and is back afterwards.
    struct JobStop {
      uint64_t rip = 0, rsp = 0;
      bool is_left = false;
    };
    std::optional<JobStop> job_stop = {};
  };
  using Threads = std::map<ThreadId, Thread>;

  // live_target.cc
  void take_over(RestoredTree::HeldTask held, const SnapshotTarget& from);
  std::shared_ptr<LiveMemory> memory_of(Pid pid, Tid real) const;
  void carry_over(const SnapshotTarget& from);
  ThreadId number_of(Tid real) const;
  Thread& add(ThreadId id, Tracee task);
  Process& process(Pid pid);
  const Process* find(Pid pid) const;
  std::optional<LiveFiles::LivingTask> living_task(Pid pid) const;
  // Of that one.
  std::optional<ProcDirectory> proc_of(Pid pid) const;
  std::vector<Thread*> threads_of(Pid pid);
  bool has_exited(const Thread& thread) const;
  static int shown_signal(const Thread& thread);

  // live_calls.cc
  std::optional<int64_t> call(Pid pid, uint64_t number, const std::array<uint64_t, 6>& arguments);

  // live_records.cc
  Pid pid_of(Pid real, const ProcFields& status) const;
  std::optional<pb::Process> record_of(Pid real) const;
  std::optional<Pid> free_process(Pid pid) const;  // its real number

  // live_run.cc
  void look_now_and_then(bool wanted);
  void settle(Pid pid);
  void go(Thread& thread);
  bool stays_stopped(Thread& thread);
  void ask(Thread& thread, Asked why);
  bool is_of_removed(const Event& event, const Thread& thread);
  void deliver_on_resume(Thread& thread, int signal);
  void load_debug_registers(Thread& thread);
  bool is_watched_step_by_step(const Process& owner) const;
  bool is_in_memory(const Breakpoint& breakpoint) const;
  void step_over(Thread& thread);
  void go_anew(Pid pid);
  void pass_breakpoints();
  void take_if_any(Thread& thread);
  bool seize_all(Pid pid);
  void let_paused_go();
  template <typename Do>
  void while_alive(Thread& thread, Do&& act);
  void drop_events(const std::function<bool(const Event&)>& of);
  void end_vfork(Pid child);
  void take_unknown_dead(Pid real);
  void take_dead_of_others(Pid pid);
  std::vector<Thread*> pause(Pid pid);
  void await(Thread& thread, std::chrono::milliseconds patience);

  // live_events.cc
  void collect();
  void collect_later();
  void take(Tid real);
  void take(Thread& thread);
  void take_new_program(Tracee task);
  void let_trap_come(Thread& thread);
  void took_stop(Thread& thread, Asked asked);
  std::optional<Event> what_happened(Thread& thread);
  bool fails_at_breakpoint(Thread& thread, int signal);
  static void take_as_delivered(Thread& thread);
  std::optional<Event> on_signal(Thread& thread);
  std::optional<Event> on_trap(Thread& thread);
  std::optional<DebugRegisters::Met> met_by(Thread& thread, Process& owner);
  std::optional<DebugRegisters::Met> changed_by(Thread& thread, Process& owner);
  void note_home(Pid pid, uint64_t address);
  std::optional<Event> on_breakpoint(Thread& thread);
  void perform_commands(const Thread& thread);
  std::optional<Event> on_step_made(Thread& thread);
  std::optional<Event> on_step(Thread& thread);
  std::optional<Event> on_system_call(Thread& thread);
  std::optional<Event> on_new_process(Thread& thread);
  std::optional<Event> on_new_thread(Thread& thread);
  std::optional<Event> on_vfork_done(Thread& thread);
  std::optional<Event> on_exec(Thread& thread);
  std::optional<Event> on_stop(Thread& thread);
  void lost(Thread& thread, Asked asked);
  std::optional<Tracee> newborn(const Thread& parent);

  std::shared_ptr<const Snapshot> snapshot_;
  RegisterLayout layout_;
  std::string printed_;                        // by commands of breakpoints
  std::unique_ptr<ProgramTerminal> terminal_;  // nullptr: it has our own standard streams
  std::optional<LentSettings> settings_;       // and their terminal the program's settings
  Fd child_signals_;
  Fd timer_;  // while looks_now_and_then_
  Fd readable_;
  RestorePlan plan_;
  std::optional<RestoredTree> tree_;
  LiveFiles files_;
  std::map<Pid, Process> processes_;
  std::map<Pid, Free> free_;  // of the tree, running by themselves
  Threads threads_;
  std::map<Tid, ThreadId> by_real_;
  std::map<Tid, Tracee> early_;  // heard of before their parents had told of them
  std::deque<Event> events_;
  ThreadId last_reported_ = {};
  bool halting_ = false;           // who is born now stands still
  bool vfork_ended_ = false;       // of somebody who can be stopped now
  bool interrupt_is_due_ = false;  // ^C, where something else came first
  bool pausing_ = false;           // the same, and is among `paused_`
  std::vector<ThreadId> paused_;   // that go on in a moment
  std::vector<ThreadId> passing_;  // at breakpoints that are none of theirs
  bool looks_now_and_then_ = false;
  bool lives_on_ = false;  // let_go()
  Wishes wishes_;
};

// Of a stopped thread. Should it be killed meanwhile, we hear of that next.
template <typename Do>
void LiveTarget::while_alive(Thread& thread, Do&& act) {
  try {
    act();
  } catch (const SystemError& error) {
    if (error.error_number() != ESRCH) throw;
    thread.task.set_status({});
  }
}

}  // namespace snapgdb::gdbstub
