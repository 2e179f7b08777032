#include "core/resource/space_copy.h"

#include <sys/prctl.h>
#include <sys/syscall.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/resource/hosts.h"
#include "core/resource/residence.h"
#include "core/resource/userfault.h"

namespace snapgdb {
namespace {

// Where orphans below a process may become its children: it would see our twin end.
std::optional<std::string> why_not_above_orphans(const FrozenProcess& frozen,
                                                 CaptureContext& context) {
  const std::string adopts_them = fmt::format("process {} adopts orphans", frozen.pid.value);
  if (innermost(frozen.status().text("NSpid")) == 1) return adopts_them;
  constexpr size_t kScratch = 4096;
  const Host host = host_in(frozen, context, kScratch);
  if (!host.task)
    return fmt::format("process {} cannot be asked whether it adopts orphans: {}", frozen.pid.value,
                       host.why_not);
  Detour detour(*host.task, host.place, kScratch);
  int adopts = 1;
  detour.call(SYS_prctl, {PR_GET_CHILD_SUBREAPER, detour.scratch()});
  detour.read(detour.scratch(), std::as_writable_bytes(std::span(&adopts, 1)));
  return adopts ? std::optional(adopts_them) : std::nullopt;
}

// Where its copy would wait for somebody who is stopped, or be at the program's cost.
const char* why_not_cloned(const pb::Process& process) {
  // When the program writes to a huge page that is shared with the twin, a new one is taken from
  // the pool; where that is empty, from the twin.
  const auto has_huge_pages = [](const pb::Vma& vma) {
    return has_flag(vma, "ht") && !vma.shared() && !has_flag(vma, "dc");
  };
  if (std::ranges::any_of(process.mappings(), has_huge_pages))
    return "a copy of its private huge pages (hugetlb) would use up their pool";
  if (may_be_told_of_forks(process)) return "a userfaultfd may be told of forks";
  const auto tells_it = [&](const pb::Descriptor& descriptor) {
    return descriptor.has_message_queue() &&
           descriptor.message_queue().notify_pid() == process.pid();
  };
  if (std::ranges::any_of(process.descriptors(), tells_it))
    return "it is told of messages in a queue (mq_notify(3)), and would be no more";
  return nullptr;
}

bool holds(const std::vector<ProcMapping>& mappings, const MemoryRun& run) {
  const auto behind = std::ranges::upper_bound(mappings, run.start, {}, &ProcMapping::start);
  return behind != mappings.begin() && run.start < std::prev(behind)->end;
}

// The flags that the plan was made from may be older than the twin. What it did not inherit after
// all (MADV_DONTFORK) is the process's own to be read. Where things are is told soon; flags are
// not.
void take_from_process_what_is_not_in(const ProcDirectory& twin, std::vector<MemoryRun>& plan) {
  const std::vector<ProcMapping> inherited = parse_mappings(twin.read("maps"));
  for (MemoryRun& run : plan)
    if (run.from == MemoryRun::From::kMemory && run.in_twin) run.in_twin = holds(inherited, run);
}

// The tree runs again: what was wiped in the twin (MADV_WIPEONFORK) must not be taken for zeros.
void leave_out_what_was_wiped(const ProcDirectory& twin, std::vector<MemoryRun>& plan) {
  std::vector<ProcMapping> inherited = parse_mappings(twin.read("smaps"));
  std::erase_if(inherited, [](const ProcMapping& mapping) { return mapping.has_flag("wf"); });
  for (MemoryRun& run : plan) {
    if (run.from != MemoryRun::From::kMemory || !run.in_twin) continue;
    run.way = RemoteMemory::Way::kGently;  // all of it is in common with the program
    if (holds(inherited, run)) continue;
    run.from = MemoryRun::From::kMissing;
    run.why = "just then the program did not want forks to inherit it (madvise(2))";
  }
}

const FrozenProcess* parent_of(const FrozenProcess& frozen, const FrozenTree& tree) {
  const pid_t parent = frozen.stat().parent;
  const auto found = std::ranges::find_if(
      tree.processes, [&](const FrozenProcess& other) { return other.pid.value == parent; });
  return found == tree.processes.end() ? nullptr : &*found;
}

}  // namespace

SpaceCopy::SpaceCopy(const FrozenProcess& frozen, const pb::Process& process,
                     CaptureContext& context, const MemoryOptions& options)
    : frozen_(&frozen), memory_(frozen.a_task(), frozen.task_proc) {
  const Survey* survey = context.surveys.find(frozen.pid);
  const PreCopy* early = survey && survey->precopy ? &*survey->precopy : nullptr;
  plan_ = plan_memory(frozen, process, context.files, options, early);
  method_ = early ? "pre-copy" : "copied while stopped";
  if (survey && !survey->why_not.empty()) why_not_better_ = "no first copies: " + survey->why_not;
  why_no_twin_ = why_not_cloned(process);
  is_tracked_ = early != nullptr;
}

uint64_t SpaceCopy::to_secure() const {
  uint64_t bytes = 0;
  for (const MemoryRun& run : plan_)
    if (run.must_be_secured() && !(twin_ && run.in_twin)) bytes += run.size;
  return bytes;
}

uint64_t SpaceCopy::to_read() const {
  uint64_t bytes = 0;
  for (const MemoryRun& run : plan_)
    if (run.must_be_secured() || run.from == MemoryRun::From::kSecured) bytes += run.size;
  return extents_ ? 0 : bytes;
}

uint64_t SpaceCopy::bytes_for_twin() const {
  uint64_t bytes = 0;
  for (const MemoryRun& run : plan_)
    if (run.from == MemoryRun::From::kMemory && run.in_twin) bytes += run.size;
  return bytes;
}

void SpaceCopy::secure_by_reading(Stash& stash) {
  if (bytes_for_twin() <= kWorthATwin)
    snapgdb::secure(plan_, memory_, stash, [](const MemoryRun&) { return true; });
}

void SpaceCopy::secure(CaptureContext& context, Stash& stash) {
  ask_what_is_resident(plan_, *frozen_, context);
  if (bytes_for_twin() > kWorthATwin) try_twin(context);
  const auto wanted = [&](const MemoryRun& run) { return !(twin_ && run.in_twin); };
  if (snapgdb::secure(plan_, memory_, stash, wanted)) return;
  twin_.reset();  // of no use, if something has to be read while the tree is stopped anyway
  method_ = "stop-copy";
}

void SpaceCopy::try_twin(CaptureContext& context) {
  try {
    if (why_no_twin_) throw Error("no twin", why_no_twin_);
    for (const auto* process = frozen_; process; process = parent_of(*process, context.tree))
      if (auto why = why_not_above_orphans(*process, context)) throw Error("no twin", *why);
    const Host host = host_in(*frozen_, context, Twin::kScratch);
    if (!host.task) throw Error("no twin", host.why_not);
    twin_.emplace(*host.task, host.place);
    take_from_process_what_is_not_in(ProcDirectory::of(Pid{twin_->tid().value}), plan_);
    method_ = method_ == "pre-copy" ? "pre-copy and twin" : "twin";
  } catch (const Error& error) {
    twin_.reset();
    why_not_better_ += (why_not_better_.empty() ? "no twin: " : "; no twin: ") + error.why();
  }
}

const Extents& SpaceCopy::copy(const Stash& stash, PageWriter& pages) {
  if (extents_) return *extents_;
  if (!twin_) return extents_.emplace(copy_memory(plan_, memory_, stash, pages));
  const ProcDirectory proc = ProcDirectory::of(Pid{twin_->tid().value});
  leave_out_what_was_wiped(proc, plan_);
  const RemoteMemory frozen(twin_->tid(), proc);
  extents_.emplace(copy_memory(plan_, frozen, stash, pages));
  twin_.reset();
  return *extents_;
}

void SpaceCopy::settle(pb::Process& process, const MemoryOptions& options) {
  if (extents_) return;
  settle_mappings(frozen_->task_proc, process, plan_, options);
  if (!is_tracked_) return;
  // VM_UFFD_WP, proc(5). Mappings that have it from others are not tracked.
  constexpr std::string_view kOurs = " uw";
  for (pb::Vma& vma : *process.mutable_mappings())
    if (const size_t at = vma.flags().find(kOurs); at != std::string::npos)
      vma.mutable_flags()->erase(at, kOurs.size());
}

}  // namespace snapgdb
