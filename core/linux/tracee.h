#pragma once

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/user.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/ids.h"

namespace snapgdb {

// What a tracee reported, as waitpid(2) encodes it (ptrace(2), "Stopped states").
class WaitStatus {
 public:
  WaitStatus() = default;
  explicit WaitStatus(int status) : status_(status) {}

  static WaitStatus exited() { return WaitStatus(0); }

  int raw() const { return status_.value_or(0); }
  bool gone() const;                         // exited or killed
  bool stopped() const;                      // neither: it runs
  int event() const { return raw() >> 16; }  // PTRACE_EVENT_*, 0: a signal is to be delivered
  int signal() const;                        // of a stop
  bool signal_delivery() const { return stopped() && event() == 0 && !system_call(); }
  bool system_call() const;  // entered or left, with PTRACE_O_TRACESYSGOOD
  bool job_control_stop() const;
  // Of a stop: what it is about.
  enum class Report { kSignal, kSystemCall, kFork, kVfork, kVforkDone, kClone, kExec, kStop };
  Report report() const;

 private:
  std::optional<int> status_;  // nullopt: nothing reported since it was set going
};

// One task under our ptrace. Tracing binds to the thread that seized it: only that thread may use
// it. The destructor lets the task run on as if nothing had been: with the signal that was on its
// way, or still stopped if job control had stopped it. If we are killed, the kernel does the same
// but for the signal on its way, which it delivers too.
class Tracee {
 public:
  // nullopt: the task is gone or a zombie. Throws Error if the kernel refuses it, saying why
  // (traced by another, belongs to another user, a kernel thread).
  static std::optional<Tracee> seize_if_alive(Tid tid, uint64_t options = 0);
  // A task that has something to report to this thread, or a child of ours that has ended; nullopt:
  // none has. It stays there to be waited for.
  static std::optional<Tid> next_to_report();
  // Takes over a task that our options made the kernel attach (PTRACE_O_TRACECLONE and the like).
  static Tracee adopt(Tid tid, uint64_t options) { return Tracee(tid, options); }

  Tracee(Tracee&& other) noexcept;
  Tracee& operator=(Tracee&& other) noexcept;
  ~Tracee();

  Tid tid() const { return tid_; }
  uint64_t options() const { return options_; }  // PTRACE_O_*
  // All reports there are, of all that it makes too; they end with us.
  static constexpr uint64_t kDebugged =
      PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
      PTRACE_O_TRACEVFORKDONE | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC;
  // The kernel function it slept in before it was stopped; "" if that is not known.
  const std::string& wait_channel() const { return wait_channel_; }
  void set_wait_channel(std::string name) { wait_channel_ = std::move(name); }
  bool is_stopped() const { return status_.stopped(); }
  WaitStatus status() const { return status_; }
  void set_status(WaitStatus status) { status_ = status, known_ = {}; }

  void interrupt_if_alive();
  // True once it is stopped; false: not yet, or gone (status().gone()).
  bool poll_stop();
  // The same, but waits for it.
  bool wait_stop(std::chrono::milliseconds patience);

  // ---- Of a stopped task. Each throws SystemError; ESRCH means that it was killed meanwhile. ----
  std::vector<std::byte> register_set(uint32_t note_type) const;  // NT_PRSTATUS, NT_X86_XSTATE, …
  void set_register_set(uint32_t note_type, std::span<const std::byte> bytes);
  user_regs_struct registers() const;
  void set_registers(const user_regs_struct& registers);
  uint64_t signal_mask() const;
  void set_signal_mask(uint64_t mask);
  void set_options(uint64_t options);
  siginfo_t siginfo() const;
  void set_siginfo(const siginfo_t& info);
  // DR0 to DR3, DR6, DR7.
  uint64_t debug_register(int number) const;
  void set_debug_register(int number, uint64_t value);
  // The queue of the task, or that of its process: siginfo in queue order.
  std::vector<siginfo_t> pending(bool of_process) const;
  struct Rseq {
    uint64_t address = 0;
    uint32_t size = 0, signature = 0, flags = 0;
  };
  std::optional<Rseq> rseq() const;  // nullopt on kernels before 5.13
  // What it was asked for in this stop, so as to be asked once. For whoever lets it go on and
  // brings it back to where it was: known() before, set_known() afterwards.
  struct Known {
    std::optional<user_regs_struct> registers = {};
    std::optional<std::vector<std::byte>> xstate = {};  // NT_X86_XSTATE
    std::optional<uint64_t> signal_mask = {};
    std::optional<std::optional<Rseq>> rseq = {};
  };
  const Known& known() const { return known_; }
  void set_known(Known known) { known_ = std::move(known); }
  unsigned long event_message() const;
  // In a stop of a system call: it is about to begin, not over (Linux 5.3).
  bool enters_system_call() const;

  // Let it run, delivering `signal` (0: none). _if_alive: a task killed meanwhile is no error.
  enum class Until { kNextReport, kNextInstruction, kNextSystemCall };
  void resume_if_alive(int signal, Until until = Until::kNextReport);
  // A job-control stop goes on, and we hear of its end.
  void listen_if_alive();
  // False: it was killed meanwhile, and its end has to be waited for: until then it is there for
  // whoever else waits for it. The destructor does so for 20 ms.
  bool detach_if_alive(int signal);
  // The signal that has to be delivered when it goes on from the stop it is in; 0: none.
  int signal_on_its_way() const { return status_.signal_delivery() ? status_.signal() : 0; }

 private:
  Tracee(Tid tid, uint64_t options) : tid_(tid), options_(options) {}
  void goes_on() { set_status({}); }

  Tid tid_;
  uint64_t options_ = 0;
  std::string wait_channel_;
  WaitStatus status_;
  mutable Known known_;
};

using Tracees = std::map<Tid, Tracee>;

}  // namespace snapgdb
