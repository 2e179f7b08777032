#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "core/base/ids.h"
#include "core/linux/procfs.h"
#include "core/linux/tracee.h"

namespace snapgdb {

struct FrozenTask {
  Tid tid;
  // As /proc showed them before we stopped it.
  char state_before = '?';
  std::string wait_channel_before = {};  // kernel function; "" where it ran or /proc does not tell
  // Of a task that sleeps in vfork(2), where no signal and no tracer reaches it, until its child
  // execs or exits. The child is held, and so is the task, although it is not stopped and not among
  // the Tracees. This is all that can be known of its registers.
  std::optional<CallInProgress> in_vfork = {};
  // /proc/PID/task/TID, from before it was stopped, with files at hand; nullopt: there would be too
  // many of them.
  std::optional<ProcDirectory> proc = {};
};

class FrozenProcess {
 public:
  FrozenProcess(Pid number, ProcDirectory of_process, ProcDirectory of_task,
                std::vector<FrozenTask> held)
      : pid(number),
        proc(std::move(of_process)),
        task_proc(std::move(of_task)),
        zombie(held.empty()),
        tasks(std::move(held)) {}

  Pid pid;
  ProcDirectory proc;       // /proc/PID
  ProcDirectory task_proc;  // /proc/PID/task/TID of a task that still has the memory and the files:
                            // a leader that exited before its threads has neither
  bool zombie = false;      // exited as a whole, not yet waited for
  std::vector<FrozenTask> tasks;  // that are held; the leader first, unless it has exited

  Tid a_task() const { return tasks.empty() ? leader_of(pid) : tasks.front().tid; }

  // Each is read at most once, since nothing in them changes while it is stopped; by one thread at
  // a time.
  const ProcFields& status() const;                  // /proc/PID/status
  const ProcFields& task_status() const;             // that of task_proc
  const ProcStat& stat() const;                      // /proc/PID/stat
  ProcStat task_stat() const;                        // that of task_proc, but for its times
  const std::vector<ProcMapping>& mappings() const;  // task_proc's maps

  // Whether `proc` is that of a living task, or nobody lives.
  bool has_leader() const { return tasks.empty() || tasks.front().tid == leader_of(pid); }
  // What is in /proc/PID and not below task/, and tells nothing of a leader that has exited (its
  // memory, its cgroup). There it is /proc/TID of another task, which no listing shows (proc(5)).
  const ProcDirectory& living() const;

 private:
  mutable std::unique_ptr<const ProcFields> status_, task_status_;
  mutable std::optional<ProcStat> stat_;
  mutable std::optional<std::vector<ProcMapping>> mappings_;
  mutable std::optional<ProcDirectory> living_;
};

// A process tree of which every task is stopped, until the Tracees that hold it go out of scope.
struct FrozenTree {
  std::vector<FrozenProcess> processes;  // parents before children; the root first
  uint64_t first_stop_ns = 0;            // CLOCK_MONOTONIC, just before the first task was stopped
};

struct FreezeOptions {
  // How long one task may take to stop; a tenth of it if it sleeps uninterruptibly. So much it
  // gets before anything is stopped.
  std::chrono::milliseconds patience{10'000};
};

// Stops every task of the trees below `roots`, looking again until nothing new turns up. Tasks that
// `tracees` holds already (running or stopped) are taken in; new ones are added to it. On an error
// the caller's Tracees let everything go. Throws Error: no such process, a zombie, a kernel thread,
// traced by another, not permitted, does not stop, or the tree holds snapgdb itself.
FrozenTree freeze(const std::vector<Pid>& roots, Tracees& tracees, FreezeOptions options = {});

// The processes of the trees below `roots` as /proc shows them now, parents first.
std::vector<Pid> tree_below(const std::vector<Pid>& roots);

}  // namespace snapgdb
