// What is in the way of a restore: of processes, threads and memory.

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/image/missing.h"
#include "core/resource/brief_name.h"
#include "core/resource/memory.h"
#include "core/resource/mounts.h"
#include "core/resource/namespaces.h"
#include "core/resource/processor.h"
#include "core/resource/sharing.h"
#include "core/resource/signal_queue.h"
#include "core/resource/terminal.h"
#include "core/resource/vdso.h"
#include "core/restore_plan.h"

namespace snapgdb {
namespace {

// What the kernel keeps to itself comes from this kernel; anything else would read as zeros.
void check_memory(const Snapshot& snapshot, const pb::Process& process,
                  const RestoreOptions& options, RestorePlan& plan) {
  std::map<std::string, uint64_t> lost;
  const Extents& extents = snapshot.extents(process);
  for (const pb::Vma& vma : process.mappings()) {
    if (has_flag(vma, "io") || has_flag(vma, "pf"))
      if (!is_kernel_part(vma))
        plan.obstacles.push_back({process.pid(), describe(vma), "memory of a device", ""});
    if (is_kernel_part(vma) || (vma.shared() && vma.file() != 0)) continue;
    for (const Extent& extent : extents.overlapping(vma.start(), vma.end()))
      if (extent.source == pb::SOURCE_MISSING && Extents::kept_by(extent) != KeptBy::kKernel)
        lost[extents.reason(extent)] +=
            std::min(extent.end(), vma.end()) - std::max(extent.start, vma.start());
  }
  for (const auto& [why, bytes] : lost) {
    const auto what = fmt::format("{} bytes of memory", bytes);
    if (options.without.contains("memory"))
      plan.notes.push_back(
          fmt::format("process {}: {} reads as zeros: {}", process.pid(), what, why));
    else
      plan.obstacles.push_back(
          {process.pid(), what, "it is not in the image: " + why,
           why == kKeptOutOfDumps
               ? "capture with --all-memory, or --without memory: it reads as zeros"
               : "--without memory: it reads as zeros"});
  }
}

void check_user(const pb::Process& process, const pb::Thread& thread, RestorePlan& plan) {
  if (::geteuid() == 0) return;
  const pb::Credentials& wanted = thread.credentials();
  for (const uint32_t user : {wanted.ruid(), wanted.euid(), wanted.suid()})
    if (user != plan.outside_user)
      return plan.obstacles.push_back(
          {process.pid(), "credentials",
           fmt::format("it belongs to user {}, not {}", user, plan.outside_user),
           plan.isolated ? "restore it as root" : "restore it as root, or --isolated"});
  for (const uint32_t group : {wanted.rgid(), wanted.egid(), wanted.sgid()})
    if (group != plan.outside_group)
      return plan.obstacles.push_back(
          {process.pid(), "credentials",
           fmt::format("it belongs to group {}, not {}", group, plan.outside_group),
           "restore it as root"});
}

void check_directory(const Snapshot& snapshot, const pb::Process& process, const std::string& path,
                     bool may_lack, RestorePlan& plan) {
  struct stat status {};
  const pb::NamespaceState* mounts = planned_mounts(snapshot, plan, process);
  if (path.empty() || (stat_for_tree(mounts, path, status) == 0 && S_ISDIR(status.st_mode))) return;
  if (const auto name = removed_name(path);
      name && (is_directory_of_ended(*name) || BriefName::obstacle(*name).empty()))
    return;
  const std::string resource = "directory " + printable(path);
  if (may_lack)
    plan.notes.push_back(fmt::format("process {}: {} is not there", process.pid(), resource));
  else
    plan.obstacles.push_back(
        {process.pid(), resource, "it is not there any more", "make it again"});
}

void check_thread(const pb::Process& process, const pb::Thread& thread, RestorePlan& plan) {
  const auto object = [&](std::string resource, std::string why, std::string help = "") {
    plan.obstacles.push_back({process.pid(), std::move(resource), std::move(why), std::move(help)});
  };
  if (Obstacle obstacle = seccomp_obstacle(process, thread, ::geteuid() == 0);
      !obstacle.why.empty())
    plan.obstacles.push_back(std::move(obstacle));
  check_user(process, thread, plan);
  if (const std::string& label = thread.credentials().lsm_label(); !label.empty())
    plan.notes.push_back(fmt::format("task {}: its security label {} is not set again",
                                     thread.tid(), printable(label)));
  if (!thread.xstate().empty() && !thread.registers().empty()) return;
  if (thread.state() == "D")
    object("registers", "they are not in the image: it waits in vfork(2)",
           "capture it when its child has exec'd or exited");
  else
    object("registers", "they are not in the image");
}

// The kernel counts what expires while the signal waits, and tells it with the signal only.
void check_timers(const pb::Process& process, RestorePlan& plan) {
  const auto check = [&](const auto& pending) {
    for (const std::string& bytes : pending) {
      const siginfo_t info = siginfo_in(bytes);
      const auto timer = std::ranges::find(process.timers(), static_cast<uint32_t>(info.si_timerid),
                                           &pb::PosixTimer::id);
      if (info.si_code == SI_TIMER && timer != process.timers().end() && timer->interval_ns())
        plan.notes.push_back(fmt::format(
            "process {}: how often timer {} expired while its signal waited is lost (si_overrun)",
            process.pid(), timer->id()));
    }
  };
  check(process.pending_siginfo());
  for (const pb::Thread& thread : process.threads()) check(thread.pending_siginfo());
}

void check_sharing(const Snapshot& snapshot, const pb::Process& process, RestorePlan& plan) {
  for (const pb::Process& other : snapshot.processes()) {
    if (other.pid() >= process.pid() || is_zombie(other)) continue;
    const auto has_same = [&](Shared what) {
      return (process.*what)() != 0 && (other.*what)() == (process.*what)();
    };
    if (has_same(kMemory) && is_first_to_share(snapshot, process, kMemory))
      plan.obstacles.push_back(
          {process.pid(), "address space",
           fmt::format("it is shared with process {}, which is not its parent", other.pid()), ""});
    else
      for (const SharedKind& kind : kSharedKinds)
        if (has_same(kind.what) && is_first_to_share(snapshot, process, kind.what))
          plan.notes.push_back(fmt::format("processes {} and {} get {} of their own", other.pid(),
                                           process.pid(), kind.name));
  }
}

// The kernel clears the number at that address when the thread ends, which pthread_join(3) waits
// for.
void check_ends_of_threads(const pb::Process& process, RestorePlan& plan) {
  const auto is_unknown = [&](const pb::Thread& thread) {
    return thread.tid() != process.pid() && !thread.has_alternate_stack() &&
           !thread.clear_child_tid();
  };
  if (const auto count = std::ranges::count_if(process.threads(), is_unknown))
    plan.notes.push_back(
        fmt::format("process {}: where the kernel tells of the end of {} of its threads is not "
                    "known: who waits for one of them waits for ever",
                    process.pid(), count));
}

void check_process(const Snapshot& snapshot, const pb::Process& process, RestorePlan& plan) {
  if (process.session() == process.pid() && process.terminal() != 0 &&
      !master_for(snapshot, plan, process))
    plan.notes.push_back(
        fmt::format("process {}: its session has no controlling terminal now", process.pid()));
  for (const pb::Descriptor& descriptor : process.descriptors())
    if (const auto note = terminal_note(snapshot, descriptor, plan.isolated); !note.empty())
      plan.notes.push_back(fmt::format("process {}: descriptor {}, {}: {}", process.pid(),
                                       descriptor.number(), printable(descriptor.target()), note));
  if (is_zombie(process)) return;
  for (const pb::Thread& thread : process.threads()) check_thread(process, thread, plan);
  if (process.threads().empty())
    plan.obstacles.push_back({process.pid(), "threads", "they are not in the image", ""});
  check_directory(snapshot, process, process.working_directory(), plan.isolated, plan);
  check_directory(snapshot, process, process.root_directory(), false, plan);
  if (has_other_root(process) && ::geteuid() != 0)
    plan.obstacles.push_back(
        {process.pid(), "root directory", "only root may change it", "restore it as root"});
  check_sharing(snapshot, process, plan);
  check_timers(process, plan);
  check_ends_of_threads(process, plan);
}

}  // namespace

void check_tree(const Snapshot& snapshot, const RestoreOptions& options, RestorePlan& plan) {
  check_processor(snapshot, options.without.contains("processor"), plan);
  for (const pb::Process& process : snapshot.processes()) {
    check_process(snapshot, process, plan);
    if (process.address_space() && is_first_to_share(snapshot, process, kMemory))
      check_memory(snapshot, process, options, plan);
  }
  std::ranges::move(missing_lines(snapshot.record()), std::back_inserter(plan.notes));
  if (snapshot.has_lost_processes())
    plan.obstacles.push_back({0, "the tree", "the damaged image has lost one of its processes",
                              "what is whole can be looked at"});
}

}  // namespace snapgdb
