#include "core/base/strings.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

void capture(CaptureContext& context, const StoppedTask& stopped, pb::Thread& thread) {
  const Tid tid = stopped.task.tid;
  pb::Scheduling& out = *thread.mutable_scheduling();
  const ProcFields& status = stopped.status();
  out.set_cpus_allowed(std::string(status.text("Cpus_allowed_list")));
  if (const auto attributes = scheduling_of(tid)) {
    out.set_policy(attributes->policy);
    out.set_nice(attributes->nice);
    out.set_realtime_priority(attributes->priority);
    out.set_deadline_runtime_ns(attributes->runtime);
    out.set_deadline_deadline_ns(attributes->deadline);
    out.set_deadline_period_ns(attributes->period);
  } else {
    context.lacks(stopped.process.pid, tid, "scheduling", "sched_getattr(2) is refused");
  }
  out.set_io_priority(io_priority_of(tid).value_or(0));
  // /proc/TID, since the file is missing below task/.
  const auto proc = ProcDirectory::of_if_alive(Pid{tid.value});
  const std::string slack = proc ? proc->read_if_allowed("timerslack_ns").value_or("") : "";
  out.set_timer_slack_ns(parse_number<uint64_t>(trim(slack)).value_or(0));
  thread.set_wait_channel(stopped.task.wait_channel_before);
}

}  // namespace

const ThreadResource kScheduling{"scheduling", capture};

}  // namespace snapgdb
