#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "core/base/error.h"
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
    out.set_flags(attributes->flags);
    // Also of real-time policies, for when it has another one: sched_getattr(2) hides it.
    out.set_nice(::getpriority(PRIO_PROCESS, static_cast<id_t>(tid.value)));
    out.set_realtime_priority(attributes->priority);
    out.set_deadline_runtime_ns(attributes->runtime);
    out.set_deadline_deadline_ns(attributes->deadline);
    out.set_deadline_period_ns(attributes->period);
  } else {
    context.lacks(stopped.process.pid, tid, "scheduling", "sched_getattr(2) is refused");
  }
  out.set_io_priority(io_priority_of(tid).value_or(0));
  out.set_timer_slack_ns(timer_slack_of(stopped.proc(), tid).value_or(0));
  thread.set_wait_channel(stopped.task.wait_channel_before);
}

// ---- Restoring ----------------------------------------------------------------------------------

// "0-3,7": as many words of a mask as needed.
std::vector<uint64_t> mask_of(std::string_view list) {
  std::vector<uint64_t> mask(1);
  for (const std::string_view range : split(list, ',')) {
    const size_t dash = range.find('-');
    const size_t first = parse_number<size_t>(range.substr(0, dash)).value_or(0);
    const size_t last =
        dash == range.npos ? first : parse_number<size_t>(range.substr(dash + 1)).value_or(first);
    constexpr size_t kMaxProcessors = 1 << 16;
    for (size_t i = first; i <= last && i < kMaxProcessors; ++i) {
      if (i / 64 >= mask.size()) mask.resize(i / 64 + 1);
      mask[i / 64] |= uint64_t{1} << (i % 64);
    }
  }
  return mask;
}

// Of the processors that it may use, this machine may have fewer, or none.
void restore_affinity(const pb::Scheduling& from, Seed& seed) {
  const auto mask = mask_of(from.cpus_allowed());
  const uint64_t at = seed.put(std::as_bytes(std::span(mask)));
  seed.try_call(SYS_sched_setaffinity, {0, mask.size() * sizeof(uint64_t), at});
}

void restore(RestoreContext& context, const pb::Process&, const pb::Thread& thread, Seed& seed) {
  const pb::Scheduling& from = thread.scheduling();
  restore_affinity(from, seed);               // SCHED_DEADLINE wants all processors to be allowed
  constexpr uint32_t kOther = 0, kBatch = 3;  // by which sched_setattr(2) sets nice, too
  if (from.nice() != 0 && from.policy() != kOther && from.policy() != kBatch)
    seed.add_if_allowed(fmt::format("set nice {}", from.nice()), SYS_setpriority,
                        {PRIO_PROCESS, 0, static_cast<uint64_t>(int64_t{from.nice()})});
  struct {  // struct sched_attr, its first version
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  } attributes{sizeof attributes,
               from.policy(),
               from.flags(),
               from.nice(),
               from.realtime_priority(),
               from.deadline_runtime_ns(),
               from.deadline_deadline_ns(),
               from.deadline_period_ns()};
  if (from.policy() != 0 || from.nice() != 0 || from.flags() != 0)
    seed.add_if_allowed(fmt::format("set policy {} and nice {}", from.policy(), from.nice()),
                        SYS_sched_setattr, {0, seed.put_value(attributes), 0});
  if (from.io_priority()) {
    constexpr uint64_t kProcess = 1;  // IOPRIO_WHO_PROCESS
    seed.add_if_allowed("set the I/O priority", SYS_ioprio_set, {kProcess, 0, from.io_priority()});
  }
  if (from.timer_slack_ns())
    seed.add("set the timer slack", SYS_prctl, {PR_SET_TIMERSLACK, from.timer_slack_ns()});
  context.perform(seed, thread.tid());
}

}  // namespace

const ThreadRestorer kSchedulingRestorer{"scheduling", restore};
const ThreadResource kScheduling{"scheduling", capture};

}  // namespace snapgdb
