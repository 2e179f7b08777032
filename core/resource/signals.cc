#include "core/resource/resources.h"

namespace snapgdb {
namespace {

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
  const Tracee& any_task = context.tracees.at(frozen.tasks.front().tid);
  add_queue(any_task.pending(true), process.mutable_pending_siginfo());
}

void capture_thread(CaptureContext&, const StoppedTask& stopped, pb::Thread& thread) {
  const ProcFields status(stopped.proc.read("status"));
  thread.set_signal_mask(stopped.tracee.signal_mask());
  thread.set_signals_pending(status.number("SigPnd", 16));
  add_queue(stopped.tracee.pending(false), thread.mutable_pending_siginfo());

  const WaitStatus stop = stopped.tracee.status();
  thread.set_job_stopped(stop.job_control_stop());
  if (stop.job_control_stop()) thread.set_stop_signal(static_cast<uint32_t>(stop.signal()));
  if (!stop.signal_delivery()) return;
  const siginfo_t info = stopped.tracee.siginfo();
  thread.set_stop_signal(static_cast<uint32_t>(stop.signal()));
  thread.set_stop_siginfo(&info, sizeof info);
}

}  // namespace

const ProcessResource kProcessSignals{"signal actions", capture_process};
const ThreadResource kThreadSignals{"signals", capture_thread};

}  // namespace snapgdb
