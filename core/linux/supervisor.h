#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "core/linux/tracee.h"

namespace snapgdb {

// A task is about to die of a signal; the whole tree may be looked at through `tracees`.
struct FatalSignal {
  Pid process;
  Tid task;
  int signal = 0;
};

// Whether the default action of a signal ends the process with a core dump (signal(7)).
bool dumps_core(int signal);

// Runs a command in our place: same terminal, same process group, same signals. It and everything
// it starts are followed by ptrace, which costs it nothing but a stop at each fork, clone, execve
// and signal.
class Supervisor {
 public:
  // Called while the task is held at the signal, before it takes effect.
  using OnFatal = std::function<void(Tracees&, const FatalSignal&)>;

  // Throws Error if the command cannot be started.
  explicit Supervisor(const std::vector<std::string>& command);
  // The command, held before its first instruction until run() is called. Precondition: run() was
  // not called yet. Throws Error if it was killed before that.
  Tracees& at_start();
  // Of a process that was ended by a signal which dumps core, and of which nobody was told before
  // (that of a seccomp filter, SA_IMMUTABLE: force_sig_seccomp(), kernel/signal.c).
  using OnUnannounced = std::function<void(Pid, int signal)>;
  // Returns the command's wait status once it has ended; what it left running runs on untraced.
  int run(const OnFatal& on_fatal, const OnUnannounced& on_unannounced);

  // How many processes the command has left running, once run() has returned.
  size_t left_running() const;

  Pid root() const { return root_; }
  // Every process followed, the root first.
  std::vector<Pid> processes() const;

 private:
  void handle(Tracee& tracee, const OnFatal& on_fatal);
  bool is_fatal(const Tracee& tracee, Pid process) const;
  void forget_after_exec(const Tracee& tracee);

  Pid root_;
  Tracees tracees_;
  std::set<Pid> reported_;  // a process dies once
  std::set<Tid> threads_;   // who is no process, as far as was seen
};

// Ends this process as the command ended: the same exit status, or the same signal.
[[noreturn]] void end_like(int wait_status);

}  // namespace snapgdb
