#include <sys/prctl.h>
#include <sys/syscall.h>

#include "core/base/strings.h"
#include "core/linux/task.h"
#include "core/resource/namespaces.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

// "NSpid: 4711 1": the same task in each nested pid namespace.
template <typename Field>
void add_numbers(std::string_view text, Field* out) {
  for (const std::string_view field : split_blank(text))
    if (const auto number = parse_number<int32_t>(field)) out->Add(*number);
}

void capture_process(CaptureContext&, const FrozenProcess& frozen, pb::Process& process) {
  const ProcStat& stat = frozen.stat();
  const ProcFields& status = frozen.status();
  process.set_name(stat.name);
  process.set_parent(stat.parent);
  process.set_group(stat.group);
  process.set_session(stat.session);
  process.set_terminal(stat.terminal);
  process.set_foreground_group(stat.foreground_group);
  process.set_exit_status(stat.exit_status);
  process.set_umask(static_cast<uint32_t>(status.number("Umask", 8)));
  add_numbers(status.text("NSpid"), process.mutable_ns_pids());
  if (process.ns_pids_size() > 1) {
    add_numbers(status.text("NSpgid"), process.mutable_ns_groups());
    add_numbers(status.text("NSsid"), process.mutable_ns_sessions());
  }
  // A leader that exited before its threads is a zombie of its own; the process is not.
  const char state = frozen.zombie ? 'Z' : frozen.tasks.front().state_before;
  process.set_state(std::string(1, state));
}

void expect_shared(CaptureContext& context, const StoppedTask& stopped) {
  const Tid tid = stopped.task.tid, other = stopped.process.a_task();
  const Pid pid = stopped.process.pid;
  if (tid == other) return;
  constexpr std::string_view kWhy = "it had its own (unshare(2)): restored, it has its process's";
  if (!share_directories(tid, other))
    context.lacks(pid, tid, "root and working directory, umask", kWhy);
  if (!share_descriptors(tid, other)) context.lacks(pid, tid, "table of descriptors", kWhy);
}

void capture_thread(CaptureContext& context, const StoppedTask& stopped, pb::Thread& thread) {
  expect_shared(context, stopped);
  const ProcStat stat = stopped.proc().stat();
  const ProcFields& status = stopped.status();
  thread.set_name(stat.name);
  thread.set_state(std::string(1, stopped.task.state_before));
  thread.set_cpu(stat.cpu);
  thread.set_start_ticks(stat.start_ticks);
  thread.set_user_ticks(stat.user_ticks);
  thread.set_system_ticks(stat.system_ticks);
  thread.set_voluntary_switches(status.number("voluntary_ctxt_switches"));
  thread.set_involuntary_switches(status.number("nonvoluntary_ctxt_switches"));
  add_numbers(status.text("NSpid"), thread.mutable_ns_tids());
}

// ---- Restoring ----------------------------------------------------------------------------------

// Sessions and groups are in the plan (Birth).
void restore_thread(RestoreContext&, const pb::Process&, const pb::Thread& thread, Seed& seed) {
  seed.add("set its name", SYS_prctl, {PR_SET_NAME, seed.put(thread.name())});
  seed.perform();
}

}  // namespace

int32_t own_number(const pb::Process& process) {
  return process.ns_pids().empty() ? process.pid() : *process.ns_pids().rbegin();
}
int32_t own_number(const pb::Thread& thread) {
  return thread.ns_tids().empty() ? thread.tid() : *thread.ns_tids().rbegin();
}

namespace {

using Numbers = google::protobuf::RepeatedField<int32_t>;  // outermost first

size_t depth_of(const pb::Process& process) {
  return static_cast<size_t>(std::max(process.ns_pids_size(), 1));
}

int32_t number_at(size_t depth, const Numbers& numbers, int32_t outermost) {
  const size_t last = static_cast<size_t>(numbers.size());
  return numbers.empty() ? outermost : numbers[static_cast<int>(std::min(depth, last)) - 1];
}

std::vector<int32_t> from(size_t depth, const Numbers& numbers, int32_t outermost) {
  if (numbers.empty()) return {outermost};
  return {numbers.rbegin(), numbers.rend() - static_cast<ptrdiff_t>(depth) + 1};
}

bool is_at_or_below(const Snapshot& snapshot, uint64_t pids, uint64_t above) {
  while (pids != above) {
    const auto& all = snapshot.record().spaces();
    const auto state = std::ranges::find(all, pids, &pb::NamespaceState::inode);
    if (state == all.end()) return false;
    pids = state->parent();
  }
  return true;
}

// A zombie shows no namespaces. It was born in the one that its parent is in, or has for children.
uint64_t pids_of(const Snapshot& snapshot, const pb::Process& process) {
  const pb::Process* parent = is_zombie(process) ? snapshot.process(process.parent()) : nullptr;
  if (!parent) return namespace_in(process.namespaces(), "pid");
  const bool is_beside = depth_of(*parent) == depth_of(process);
  return namespace_in(parent->namespaces(), is_beside ? "pid" : "pid_for_children");
}

bool sees(const Snapshot& snapshot, const pb::Process& viewer, const pb::Process& process) {
  return depth_of(viewer) == 1 ||
         is_at_or_below(snapshot, pids_of(snapshot, process), pids_of(snapshot, viewer));
}

}  // namespace

int32_t tree_number(const Snapshot& snapshot, const pb::Process& process) {
  return number_at(depth_of(snapshot.root()), process.ns_pids(), process.pid());
}
int32_t tree_number(const Snapshot& snapshot, const pb::Thread& thread) {
  return number_at(depth_of(snapshot.root()), thread.ns_tids(), thread.tid());
}

int32_t number_for(const Snapshot& snapshot, const pb::Process& process,
                   const pb::Process& viewer) {
  return sees(snapshot, viewer, process)
             ? number_at(depth_of(viewer), process.ns_pids(), process.pid())
             : 0;
}
int32_t number_for(const Snapshot& snapshot, const pb::Thread& thread, const pb::Process& process,
                   const pb::Process& viewer) {
  return sees(snapshot, viewer, process)
             ? number_at(depth_of(viewer), thread.ns_tids(), thread.tid())
             : 0;
}

std::vector<int32_t> all_numbers(const Snapshot& snapshot, const pb::Process& process) {
  return from(depth_of(snapshot.root()), process.ns_pids(), process.pid());
}
std::vector<int32_t> all_numbers(const Snapshot& snapshot, const pb::Thread& thread) {
  return from(depth_of(snapshot.root()), thread.ns_tids(), thread.tid());
}

const ThreadRestorer kThreadIdentityRestorer{"identity", restore_thread};
const ProcessResource kProcessIdentity{
    .name = "identity", .capture = capture_process, .of_zombies = true};
const ThreadResource kThreadIdentity{"identity", capture_thread};

}  // namespace snapgdb
