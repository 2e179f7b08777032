#include "core/capture.h"

#include <time.h>

#include <map>

#include "core/base/error.h"
#include "core/linux/host.h"
#include "core/resource/resource.h"
#include "core/version.h"

namespace snapgdb {
namespace {

// Works off one row; what it throws is not the end of the capture, but is recorded as missing.
template <typename Row, typename... Args>
void capture_row(CaptureContext& context, Pid pid, Tid tid, const Row& row, Args&&... args) {
  try {
    row.capture(context, std::forward<Args>(args)...);
  } catch (const SystemError& error) {
    context.lacks(pid, tid, row.name, error.what());
  }
}

pb::Thread capture_thread(CaptureContext& context, const FrozenProcess& frozen,
                          const FrozenTask& task) {
  pb::Thread thread;
  thread.set_tid(task.tid.value);
  const ProcDirectory proc = frozen.proc.task(task.tid);
  const Tracee* tracee = task.in_vfork ? nullptr : &context.tracees.at(task.tid);
  const StoppedTask stopped{frozen, task, proc, tracee};
  for (const ThreadResource* row : thread_resources())
    capture_row(context, frozen.pid, task.tid, *row, stopped, thread);
  return thread;
}

pb::Process capture_process(CaptureContext& context, const FrozenProcess& frozen) {
  pb::Process process;
  process.set_pid(frozen.pid.value);
  for (const ProcessResource* row : process_resources())
    if (!frozen.zombie || row->of_zombies)
      capture_row(context, frozen.pid, {}, *row, frozen, process);
  for (const FrozenTask& task : frozen.tasks) {
    try {
      *process.add_threads() = capture_thread(context, frozen, task);
    } catch (const SystemError& error) {  // SIGKILL reaches tasks that are stopped, too
      context.lacks(frozen.pid, task.tid, "the task", error.what());
    }
  }
  return process;
}

// How the memory of each distinct address space will be had, and from which process.
struct SpacePlan {
  const FrozenProcess* process = nullptr;
  std::vector<MemoryRun> runs;
};
using MemoryPlan = std::map<uint32_t, SpacePlan>;  // by AddressSpace.id

MemoryPlan plan_all_memory(const FrozenTree& tree, const std::vector<pb::Process>& processes,
                           const FileRegistry& files, const MemoryOptions& options) {
  MemoryPlan plan;
  for (size_t i = 0; i < processes.size(); ++i) {
    const uint32_t id = processes[i].address_space();
    if (id == 0 || plan.contains(id)) continue;
    plan[id] = {&tree.processes[i], plan_memory(tree.processes[i], processes[i], files, options)};
  }
  return plan;
}

// What should be there and is not; what program or kernel keep to themselves is no loss.
void report_missing_memory(CaptureContext& context, Pid pid, const Extents& extents) {
  std::map<std::string_view, uint64_t> lost;
  for (const Extent& extent : extents.all())
    if (extent.source == pb::SOURCE_MISSING && !Extents::refused(extent))
      lost[extents.reason(extent)] += extent.size;
  for (const auto& [why, bytes] : lost)
    context.lacks(pid, {}, fmt::format("{} bytes of memory", bytes), why);
}

void copy_all_memory(const MemoryPlan& plan, CaptureContext& context, ImageWriter& image,
                     PageWriter& pages) {
  for (const auto& [id, space] : plan) {
    const RemoteMemory memory(space.process->a_task(), space.process->task_proc);
    const Extents extents = copy_memory(space.runs, memory, pages);
    report_missing_memory(context, space.process->pid, extents);
    pb::AddressSpace record;
    record.set_id(id);
    *record.mutable_extents() = extents.to_record();
    image.add(kAddressSpaceChunk, record);
  }
}

pb::Host host_record() {
  const HostDescription host = describe_host();
  pb::Host record;
  record.set_node_name(host.node_name);
  record.set_os_release(host.os_release);
  record.set_os_version(host.os_version);
  record.set_machine(host.machine);
  record.set_page_size(host.page_size);
  record.set_clock_ticks_per_second(host.clock_ticks_per_second);
  record.set_processors(host.processors);
  record.set_cpu_vendor(host.cpu_vendor);
  record.set_cpu_model(host.cpu_model);
  record.set_cpu_features(host.cpu_features);
  record.set_xcr0(host.xcr0);
  for (const XstateRange& range : host.xstate) {
    pb::XstateComponent& component = *record.add_xstate();
    component.set_number(range.number);
    component.set_offset(range.offset);
    component.set_size(range.size);
  }
  return record;
}

pb::SnapshotRecord record_of_moment(const Moment& moment, Pid root) {
  pb::SnapshotRecord record;
  record.set_tool_version(kVersion);
  record.set_realtime_ns(static_cast<int64_t>(now_ns(CLOCK_REALTIME)));
  record.set_monotonic_ns(static_cast<int64_t>(now_ns(CLOCK_MONOTONIC)));
  record.set_boottime_ns(static_cast<int64_t>(now_ns(CLOCK_BOOTTIME)));
  record.set_root_pid(root.value);
  record.set_focus_pid(moment.focus_pid.value ? moment.focus_pid.value : root.value);
  record.set_focus_tid(moment.focus_tid.value ? moment.focus_tid.value : root.value);
  record.set_reason(moment.reason);
  record.set_memory_method("stop-copy");
  return record;
}

}  // namespace

Capture::Capture(OutputFile out, CaptureOptions options)
    : options_(std::move(options)), image_(std::move(out), options_.write), pages_(image_) {}

CaptureReport Capture::take(const std::vector<Pid>& roots, Tracees& tracees, const Moment& moment,
                            const std::function<void()>& resume) {
  const uint64_t begin_ns = now_ns(CLOCK_MONOTONIC);
  CaptureReport report;
  pb::SnapshotRecord& record = report.record;
  std::vector<pb::Missing> missing;
  // The machine does not change: described before the pause begins.
  const pb::Host host = host_record();
  const uint64_t sequence = image_.begin_snapshot();
  {
    const ScopedUrgency urgency;
    const FrozenTree tree = freeze(roots, tracees, options_.freeze);
    // From here on nothing of the tree moves, and no new task can appear.
    record = record_of_moment(moment, tree.processes.front().pid);

    CaptureContext context{tree, tracees, files_, missing};
    std::vector<pb::Process> processes;
    for (const FrozenProcess& frozen : tree.processes)
      processes.push_back(capture_process(context, frozen));

    // The plan needs the page tables as they are now; carrying it out needs the pages.
    const MemoryPlan plan = plan_all_memory(tree, processes, files_, options_.memory);
    // Processes first: an image that is cut off in its pages still tells who was there.
    for (const pb::Process& process : processes) {
      image_.add(kProcessChunk, process);
      report.threads += static_cast<size_t>(process.threads_size());
    }
    report.processes = processes.size();
    copy_all_memory(plan, context, image_, pages_);

    resume();
    record.set_pause_ns(now_ns(CLOCK_MONOTONIC) - tree.first_stop_ns);
  }
  // The tree runs again. Files come last: they were opened while it was stopped, and what is mapped
  // from them does not change.
  files_.write_new_files(image_, pages_, missing);

  record.set_sequence(sequence);
  *record.mutable_host() = host;
  record.mutable_missing()->Assign(missing.begin(), missing.end());
  const PageWriter::Counts counts = pages_.take_counts();
  record.set_stored_pages(counts.stored);
  record.set_shared_pages(counts.shared);
  record.set_zero_pages(counts.zero);
  image_.add(kSnapshotChunk, record);
  report.files = files_.size();
  report.wall_ns = now_ns(CLOCK_MONOTONIC) - begin_ns;
  return report;
}

}  // namespace snapgdb
