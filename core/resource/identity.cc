#include <sys/prctl.h>
#include <sys/syscall.h>

#include "core/base/strings.h"
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
  // A leader that exited before its threads is a zombie of its own; the process is not.
  const char state = frozen.zombie ? 'Z' : frozen.tasks.front().state_before;
  process.set_state(std::string(1, state));
}

void capture_thread(CaptureContext&, const StoppedTask& stopped, pb::Thread& thread) {
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

const ThreadRestorer kThreadIdentityRestorer{"identity", restore_thread};
const ProcessResource kProcessIdentity{
    .name = "identity", .capture = capture_process, .of_zombies = true};
const ThreadResource kThreadIdentity{"identity", capture_thread};

}  // namespace snapgdb
