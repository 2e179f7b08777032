#include <algorithm>

#include "core/resource/resources.h"
#include "core/resource/stopping.h"

namespace snapgdb {
namespace {

constexpr std::string_view kNotStopped =
    "it waits in vfork(2), where it cannot be stopped: their numbers are known, not their data";

template <typename Field>
void add_queue(const std::vector<siginfo_t>& queue, Field* out) {
  for (const siginfo_t& info : queue)
    out->Add(std::string(reinterpret_cast<const char*>(&info), sizeof info));
}

void capture_masks(CaptureContext&, const FrozenProcess& frozen, pb::Process& process) {
  const ProcFields& status = frozen.status();
  process.set_signals_ignored(status.number("SigIgn", 16));
  process.set_signals_caught(status.number("SigCgt", 16));
  process.set_signals_pending(status.number("ShdPnd", 16));
}

void capture_thread_masks(CaptureContext&, const StoppedTask& stopped, pb::Thread& thread) {
  thread.set_signals_pending(stopped.status().number("SigPnd", 16));
  if (stopped.task.in_vfork) thread.set_signal_mask(stopped.status().number("SigBlk", 16));
}

void capture_queue(CaptureContext& context, const FrozenProcess& frozen, pb::Process& process) {
  const auto stopped =
      std::ranges::find_if(frozen.tasks, [](const FrozenTask& task) { return !task.in_vfork; });
  if (stopped != frozen.tasks.end())
    add_queue(context.tracees.at(stopped->tid).pending(true), process.mutable_pending_siginfo());
  else if (frozen.status().number("ShdPnd", 16))
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
  if (const Tracee* tracee = context.tracee_of(stopped.task))
    capture_queue_and_stop(*tracee, thread);
  else if (stopped.status().number("SigPnd", 16))
    context.lacks(stopped.process.pid, stopped.task.tid, "pending signals", kNotStopped);
}

// ---- Restoring ----------------------------------------------------------------------------------

bool has(uint64_t set, int signal) {
  return set >> (signal - 1) & 1;
}

// Nobody can set it going again who belongs to its session: but for SIGSTOP, it would not stop
// (is_current_pgrp_orphaned(), kernel/exit.c).
bool is_in_orphaned_group(const Snapshot& snapshot, const pb::Process& process) {
  return std::ranges::none_of(snapshot.processes(), [&](const pb::Process& member) {
    const pb::Process* parent = snapshot.process(member.parent());
    return member.group() == process.group() && parent && parent->session() == process.session() &&
           parent->group() != process.group();
  });
}

bool takes_default_action(const pb::Process& process, int signal) {
  return !has(process.signals_ignored() | process.signals_caught(), signal) &&
         std::ranges::any_of(process.threads(), [&](const pb::Thread& thread) {
           return !has(thread.signal_mask(), signal);
         });
}

}  // namespace

int signal_to_stop(const Snapshot& snapshot, const pb::Process& process) {
  const auto stopped = std::ranges::find_if(process.threads(), &pb::Thread::job_stopped);
  if (stopped == process.threads().end()) return 0;
  const auto signal = static_cast<int>(stopped->stop_signal());
  constexpr int kOfTerminals[] = {SIGTSTP, SIGTTIN, SIGTTOU};
  const bool works = std::ranges::count(kOfTerminals, signal) > 0 &&
                     takes_default_action(process, signal) &&
                     !is_in_orphaned_group(snapshot, process);
  return works ? signal : SIGSTOP;  // what waitpid(2) tells the parent
}

const ProcessResource kSignalMasks{"signals", capture_masks};
const ProcessResource kSignalQueue{"pending signals", capture_queue, Means::kPtrace};
const ThreadResource kThreadSignalMasks{"signals", capture_thread_masks};
const ThreadResource kThreadSignals{"signals", capture_thread, Means::kPtrace};

}  // namespace snapgdb
