#include <algorithm>

#include "core/resource/resources.h"

namespace snapgdb {
namespace {

constexpr std::string_view kNotStopped =
    "it waits in vfork(2), where it cannot be stopped: their numbers are known, not their data";

template <typename Field>
void add_queue(const std::vector<siginfo_t>& queue, Field* out) {
  for (const siginfo_t& info : queue)
    out->Add(std::string(reinterpret_cast<const char*>(&info), sizeof info));
}

// The actions themselves are not in /proc; these masks are what it tells of them.
void capture_process(CaptureContext& context, const FrozenProcess& frozen, pb::Process& process) {
  const ProcFields status(frozen.proc.read("status"));
  process.set_signals_ignored(status.number("SigIgn", 16));
  process.set_signals_caught(status.number("SigCgt", 16));
  process.set_signals_pending(status.number("ShdPnd", 16));
  const auto stopped =
      std::ranges::find_if(frozen.tasks, [](const FrozenTask& task) { return !task.in_vfork; });
  if (stopped != frozen.tasks.end())
    add_queue(context.tracees.at(stopped->tid).pending(true), process.mutable_pending_siginfo());
  else if (process.signals_pending())
    context.lacks(frozen.pid, {}, "pending signals", kNotStopped);
}

void capture_queue_and_stop(const Tracee& tracee, pb::Thread& thread) {
  thread.set_signal_mask(tracee.signal_mask());
  add_queue(tracee.pending(false), thread.mutable_pending_siginfo());

  const WaitStatus stop = tracee.status();
  thread.set_job_stopped(stop.job_control_stop());
  if (stop.job_control_stop()) thread.set_stop_signal(static_cast<uint32_t>(stop.signal()));
  if (!stop.signal_delivery()) return;
  const siginfo_t info = tracee.siginfo();
  thread.set_stop_signal(static_cast<uint32_t>(stop.signal()));
  thread.set_stop_siginfo(&info, sizeof info);
}

void capture_thread(CaptureContext& context, const StoppedTask& stopped, pb::Thread& thread) {
  const ProcFields status(stopped.proc.read("status"));
  thread.set_signals_pending(status.number("SigPnd", 16));
  thread.set_signal_mask(status.number("SigBlk", 16));
  if (stopped.tracee)
    capture_queue_and_stop(*stopped.tracee, thread);
  else if (thread.signals_pending())
    context.lacks(stopped.process.pid, stopped.task.tid, "pending signals", kNotStopped);
}

}  // namespace

const ProcessResource kProcessSignals{"signal actions", capture_process};
const ThreadResource kThreadSignals{"signals", capture_thread};

}  // namespace snapgdb
