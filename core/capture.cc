#include "core/capture.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>

#include "core/base/clock.h"
#include "core/base/crew.h"
#include "core/base/error.h"
#include "core/linux/host.h"
#include "core/linux/scheduling.h"
#include "core/resource/cgroups.h"
#include "core/resource/message_queue.h"
#include "core/resource/namespaces.h"
#include "core/resource/own_file_systems.h"
#include "core/resource/resource.h"
#include "core/resource/space_copy.h"
#include "core/resource/system_v.h"
#include "core/resource/terminal.h"
#include "core/version.h"

namespace snapgdb {
namespace {

// What is read while the tree is stopped: about 10 ms at most.
constexpr size_t kMaxStash = size_t{64} << 20;
// Threads beside the one that traces. More would wait for each other in the kernel.
constexpr size_t kHelpers = 7;

// Putting it in place takes time, too (up to 1 ms for 1 MiB in a virtual machine): no more than a
// small tree can need, with something for what it may grow until it is stopped. (What shared memory
// and files without a name hold may be in no page table.)
size_t stash_size(const Surveys& surveys) {
  constexpr size_t kRoom = size_t{16} << 20;
  const uint64_t known = surveys.to_secure();
  return known ? std::min<uint64_t>(kMaxStash, kRoom + known * 5 / 4) : kMaxStash;
}

// Works off one row; what it throws is not the end of the capture, but is recorded as missing.
template <typename Row, typename... Args>
void capture_row(CaptureContext& context, Pid pid, Tid tid, const Row& row, Args&&... args) {
  try {
    row.capture(context, std::forward<Args>(args)...);
  } catch (const Error& error) {
    context.lacks(pid, tid, row.name, error.what());
  }
}

std::vector<StoppedTask> stopped_tasks_of(const FrozenProcess& frozen) {
  std::vector<StoppedTask> tasks;
  for (const FrozenTask& task : frozen.tasks) tasks.emplace_back(frozen, task);
  return tasks;
}

pb::Process begin_record(const FrozenProcess& frozen) {
  pb::Process process;
  process.set_pid(frozen.pid.value);
  for (const FrozenTask& task : frozen.tasks) process.add_threads()->set_tid(task.tid.value);
  return process;
}

// What the rows that take these means tell of a process.
void capture_process(CaptureContext& context, const FrozenProcess& frozen,
                     const std::vector<StoppedTask>& tasks, Means means, pb::Process& process) {
  for (const ProcessResource* row : process_resources())
    if (row->means == means && (!frozen.zombie || row->of_zombies))
      capture_row(context, frozen.pid, {}, *row, frozen, process);
  for (size_t i = 0; i < tasks.size(); ++i) {
    const StoppedTask& stopped = tasks[i];
    const Tid tid = stopped.task.tid;
    pb::Thread& thread = *process.mutable_threads(static_cast<int>(i));
    try {
      for (const ThreadResource* row : thread_resources())
        if (row->means == means) capture_row(context, frozen.pid, tid, *row, stopped, thread);
    } catch (const SystemError& error) {  // SIGKILL reaches tasks that are stopped, too
      context.lacks(frozen.pid, tid, "the task", error.what());
    }
    stopped.close();
  }
}

// The distinct address spaces of the tree, by AddressSpace.id.
using Spaces = std::map<uint32_t, std::unique_ptr<SpaceCopy>>;

// The small ones first: what is in the way of the others should be as little as possible.
std::vector<SpaceCopy*> by_size(Spaces& spaces) {
  std::vector<SpaceCopy*> sorted;
  for (auto& [id, space] : spaces) sorted.push_back(space.get());
  std::ranges::sort(sorted, {}, &SpaceCopy::to_secure);
  return sorted;
}

// What /proc tells of each process, by all processors, and then, of the same process, what needs
// ptrace, which is bound to this thread. In that order: a task that is asked from inside shows
// itself in /proc as if it ran, with a mask that is not its own. This thread helps the others where
// it has nothing to ask, and does not wait for a task that is asked before there is nothing else to
// do.
//
// Such a task may wake up on the processor of one of the others, and the scheduler does not move
// it: behind a real-time thread it waited until all was read, 21 ms of 50 processes. So they are
// modest, until this thread has nothing to do but wait for them; and where the program is of
// another group (sched_autogroup, cgroups), it may still wait for a tick, 4 ms.
class Collection {
 public:
  Collection(CaptureContext& context, Crew& crew)
      : context_(context),
        crew_(crew),
        frozen_(context.tree.processes),
        tasks_(frozen_.size()),
        processes_(frozen_.size()) {}

  std::vector<pb::Process> run() {
    // One processor is left to this thread and to tasks that it asks. At ordinary priority: a
    // real-time one would keep the processor from them (a system call then takes 110 µs instead of
    // 7).
    const ScopedPinning pinning;
    crew_.run(
        [&] {
          const ScopedModesty modesty(pinning.processor());
          enter(modesty);
          while (read_next()) {
          }
          leave(modesty);
        },
        [this] {
          while (traced_ < frozen_.size()) take_a_step();
        });
    if (failure_) std::rethrow_exception(failure_);
    return std::move(processes_);
  }

 private:
  void enter(const ScopedModesty& reader) {
    const std::lock_guard lock(mutex_);
    readers_.insert(&reader);
  }
  void leave(const ScopedModesty& reader) {
    const std::lock_guard lock(mutex_);
    readers_.erase(&reader);
  }

  bool read_next() {
    const size_t i = next_++;
    if (i >= frozen_.size()) return false;
    std::exception_ptr failure;
    try {
      tasks_[i] = stopped_tasks_of(frozen_[i]);
      processes_[i] = begin_record(frozen_[i]);
      capture(i, Means::kProc);
    } catch (...) {
      failure = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    if (failure) failure_ = failure;
    ready_.push_back(i);
    changed_.notify_one();
    return true;
  }

  // Whatever keeps tasks, and then processors, at work; waits only where nothing does.
  void take_a_step() {
    if (const auto ready = next_to_ask()) return ask(*ready);
    const auto over = std::ranges::find_if(asked_, [this](size_t i) {
      return context_.questions.are_over(processes_[i].address_space());
    });
    if (over != asked_.end()) return trace(over);
    if (read_next()) return;
    if (!asked_.empty()) return trace(asked_.begin());
    wait_for_readers();
  }

  std::optional<size_t> next_to_ask() {
    const std::lock_guard lock(mutex_);
    if (ready_.empty() || asked_.size() == kMostAsked) return std::nullopt;
    const size_t i = ready_.back();
    ready_.pop_back();
    return i;
  }

  void wait_for_readers() {
    std::unique_lock lock(mutex_);
    for (const ScopedModesty* reader : readers_) reader->hurry();
    changed_.wait(lock, [this] { return !ready_.empty(); });
  }

  void ask(size_t i) {
    capture(i, Means::kQuestions);
    asked_.push_back(i);
  }

  void trace(std::vector<size_t>::iterator which) {
    const size_t i = *which;
    asked_.erase(which);
    context_.questions.finish(processes_[i].address_space());
    capture(i, Means::kPtrace);
    tasks_[i].clear();
    ++traced_;
  }

  void capture(size_t i, Means means) {
    capture_process(context_, frozen_[i], tasks_[i], means, processes_[i]);
  }

  static constexpr size_t kMostAsked = 16;

  CaptureContext& context_;
  Crew& crew_;
  const std::vector<FrozenProcess>& frozen_;
  std::vector<std::vector<StoppedTask>> tasks_;  // of each, from its reading to its asking
  std::vector<pb::Process> processes_;
  std::atomic<size_t> next_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<size_t> ready_;  // read, not yet asked
  std::vector<size_t> asked_;  // and not yet traced
  size_t traced_ = 0;
  std::set<const ScopedModesty*> readers_;
  std::exception_ptr failure_;
};

// Who shares what is done about signals shares memory, too (clone(2), unshare(2)): no others have
// to be compared.
void tell_signal_handlers_apart(CaptureContext& context, std::vector<pb::Process>& processes) {
  std::map<uint32_t, size_t> sharers;
  for (const pb::Process& process : processes) ++sharers[process.address_space()];
  std::map<uint32_t, uint32_t> known;
  for (uint32_t i = 0; i < processes.size(); ++i) {
    const FrozenProcess& frozen = context.tree.processes[i];
    if (frozen.zombie) continue;
    const uint32_t own = i + 1;
    const bool is_alone = sharers[processes[i].address_space()] == 1;
    processes[i].set_signal_handlers(
        is_alone
            ? own
            : known.try_emplace(context.signal_handlers.of(frozen.a_task()), own).first->second);
  }
}

// The memory of each address space, as far as it is quickly read. After all tasks have been asked:
// they are asked by means of their stacks. This thread does its own work first.
Spaces begin_copies(CaptureContext& context, const std::vector<pb::Process>& processes,
                    const MemoryOptions& options, Stash& stash, Crew& crew,
                    const std::function<void()>& own) {
  const auto& frozen = context.tree.processes;
  Spaces spaces;
  std::vector<size_t> owners;
  for (size_t i = 0; i < processes.size(); ++i)
    if (const uint32_t id = processes[i].address_space(); id != 0 && spaces.try_emplace(id).second)
      owners.push_back(i);
  std::atomic<size_t> next = 0;
  const auto copy = [&] {
    const ScopedUrgency urgency;
    for (size_t n = next++; n < owners.size(); n = next++) {
      const size_t i = owners[n];
      auto& space = spaces.at(processes[i].address_space());
      space = std::make_unique<SpaceCopy>(frozen[i], processes[i], context, options);
      space->secure_by_reading(stash);
    }
  };
  crew.run(copy, [&] { own(), copy(); });
  return spaces;
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

void write_memory(uint32_t id, SpaceCopy& space, const Stash& stash, CaptureContext& context,
                  ImageWriter& image, PageWriter& pages) {
  const Extents& extents = space.copy(stash, pages);
  report_missing_memory(context, space.pid(), extents);
  pb::AddressSpace record;
  record.set_id(id);
  record.set_method(space.method());
  record.set_why_not_better(space.why_not_better());
  image.add_address_space(std::move(record), extents);
}

// "pre-copy, copied while stopped"
std::string methods_of(const Spaces& spaces) {
  std::set<std::string> methods;
  for (const auto& [id, space] : spaces) methods.insert(space->method());
  return fmt::format("{}", fmt::join(methods, ", "));
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

pb::SnapshotRecord record_of_moment(const Moment& moment, Pid root, UserNamespaces& users) {
  pb::SnapshotRecord record;
  record.set_tool_version(kVersion);
  record.set_realtime_ns(static_cast<int64_t>(now_ns(CLOCK_REALTIME)));
  record.set_monotonic_ns(static_cast<int64_t>(now_ns(CLOCK_MONOTONIC)));
  record.set_boottime_ns(static_cast<int64_t>(now_ns(CLOCK_BOOTTIME)));
  const Tid self{::getpid()};
  record.set_monotonic_offset_ns(clock_offset(self, CLOCK_MONOTONIC));
  record.set_boottime_offset_ns(clock_offset(self, CLOCK_BOOTTIME));
  record.set_root_pid(root.value);
  record.set_focus_pid(moment.focus_pid.value ? moment.focus_pid.value : root.value);
  record.set_focus_tid(moment.focus_tid.value ? moment.focus_tid.value : root.value);
  record.set_reason(moment.reason);
  for (pb::Namespace& one : namespaces_of(ProcDirectory::of(Pid{::getpid()}), users))
    *record.add_namespaces() = std::move(one);
  return record;
}

}  // namespace

Capture::Capture(OutputFile out, CaptureOptions options)
    : options_(std::move(options)),
      image_(std::move(out), options_.write),
      pages_(image_, options_.progress) {}

CaptureReport Capture::take(const std::vector<Pid>& roots, Tracees& tracees, const Moment& moment,
                            const std::function<void()>& resume) {
  const uint64_t begin_ns = now_ns(CLOCK_MONOTONIC);
  CaptureReport report;
  pb::SnapshotRecord& record = report.record;
  std::vector<pb::Missing> missing;
  refuse_own_file_systems(tree_below(roots));
  // The machine does not change: described before the pause begins.
  const pb::Host host = host_record();
  const uint64_t sequence = image_.begin_snapshot();
  // Tasks that are held already run into a signal just now: there is no time for first copies.
  Surveys surveys;
  if (tracees.empty()) surveys.look(roots, pages_);
  Stash stash(stash_size(surveys));
  Crew crew(kHelpers);
  image_.drain();  // so that none of our threads is in the way while the tree is stopped
  surveys.refresh(pages_);

  std::optional<ScopedUrgency> urgency(std::in_place);
  const FrozenTree tree = freeze(roots, tracees, options_.freeze);
  urgency.reset();
  // From here on nothing of the tree moves, and no new task can appear.
  files_.begin_snapshot();
  CaptureContext context{tree, tracees, files_, surveys, missing};
  context.ends = options_.network.ends;
  record = record_of_moment(moment, tree.processes.front().pid, context.user_namespaces);
  std::vector<pb::Process> processes = Collection(context, crew).run();
  context.inet.read(context, processes, options_.network, lock_name(record));
  find_watched_elsewhere(context, processes);
  ask_epolls_again(context, processes);
  report.terminals = take_terminal_queues(context, processes);
  context.in_flight_files.clear();
  capture_namespaces(context, processes, record);
  capture_system_v(context, processes, record);
  tell_signal_handlers_apart(context, processes);
  Spaces spaces = begin_copies(context, processes, options_.memory, stash, crew,
                               [&] { capture_cgroups(context, processes, record); });
  for (SpaceCopy* space : by_size(spaces)) space->secure(context, stash);
  context.nameless.secure(processes, options_.memory, stash);
  urgency.emplace();
  context.nameless.copy_what_changes(stash, pages_);
  for (auto& [id, space] : spaces)
    if (space->needs_stop()) space->copy(stash, pages_);
  resume();
  record.set_pause_ns(now_ns(CLOCK_MONOTONIC) - tree.first_stop_ns);
  urgency.reset();

  // The tree runs again. Files come last: they were opened while it was stopped, and what is mapped
  // from them does not change.
  std::future<void> released = std::async(std::launch::async, [&] { surveys.release(); });
  for (pb::Process& process : processes) {
    if (const auto space = spaces.find(process.address_space()); space != spaces.end())
      space->second->settle(process, options_.memory);
    image_.add(kProcessChunk, process);
    report.threads += static_cast<size_t>(process.threads_size());
  }
  report.processes = processes.size();
  finish_namespaces(context, record);
  report_unopened_queues(context, processes, record);
  finish_cgroups(context, record);
  for (const auto& [id, space] : spaces) pages_.expect(space->to_read());
  files_.expect_new_files(pages_);
  for (auto& [id, space] : spaces) write_memory(id, *space, stash, context, image_, pages_);
  context.nameless.write(stash, image_, pages_, missing);
  files_.write_new_files(image_, pages_, missing);

  released.get();
  record.set_sequence(sequence);
  record.set_memory_method(methods_of(spaces));
  *record.mutable_host() = host;
  record.mutable_missing()->Assign(missing.begin(), missing.end());
  const PageWriter::Counts counts = pages_.take_counts();
  record.set_stored_pages(counts.stored);
  record.set_shared_pages(counts.shared);
  record.set_zero_pages(counts.zero);
  image_.add(kSnapshotChunk, record);
  report.files = files_.size();
  report.connections = context.inet.take_ends();
  report.wall_ns = now_ns(CLOCK_MONOTONIC) - begin_ns;
  return report;
}

}  // namespace snapgdb
