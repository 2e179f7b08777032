#include "core/linux/host_task.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/linux/posix_queue.h"

namespace snapgdb {
namespace {

constexpr std::chrono::milliseconds kPatience{100};  // for one of several tasks to stop
constexpr size_t kMaxTried = 8;

}  // namespace

std::optional<std::string> is_under_seccomp(const ProcFields& status) {
  if (status.number("Seccomp") != 0)
    return "it is under seccomp, which might kill it for system calls of ours";
  return std::nullopt;
}

std::optional<std::string> has_shadow_stack(const ProcFields& status) {
  if (status.text("x86_Thread_features").find("shstk") != std::string_view::npos)
    return "it has a shadow stack";
  return std::nullopt;
}

std::optional<std::string> guards_its_system_calls(const ProcFields& status) {
  auto why = is_under_seccomp(status);
  return why ? why : has_shadow_stack(status);
}

HostTask stop_a_host(const ProcDirectory& proc, const std::vector<ProcMapping>& mappings,
                     GadgetFinder& finder, size_t scratch) {
  const std::string tried = fmt::format("cannot make {} perform system calls", proc.path());
  const ProcFields status(proc.read("status"));
  if (const auto why = guards_its_system_calls(status)) throw Error(tried, *why);
  if (is_told_of_messages(proc, Pid{static_cast<pid_t>(status.number("Tgid"))}))
    throw Error(tried, "it is told of messages in a queue (mq_notify(3)), and would be no more");
  std::vector<Tid> tids = proc.tasks();
  const auto gadgets = tids.empty() ? std::nullopt : finder.find(tids.front(), mappings);
  if (!gadgets || !GadgetFinder::verify(tids.front(), *gadgets))
    throw Error(tried, "there is no code for it in the program");
  if (tids.size() > kMaxTried) tids.resize(kMaxTried);

  const uint64_t ignored = ignored_signals(status);
  // Rather one that is not waiting by means of a restart block: see Detour.
  std::optional<HostTask> second_best;
  for (const Tid tid : tids) {
    const auto directory = ProcDirectory::of_if_alive(Pid{tid.value});  // threads have one too
    if (directory &&
        is_under_seccomp(ProcFields(directory->read_if_allowed("status").value_or(""))))
      continue;  // threads may have filters of their own
    // It would not stop before it wakes up, and then stand still.
    const auto stat = stat_of_if_alive(tid);
    if (!stat || stat->state == 'D' || stat->works_for_kernel()) continue;
    auto task = Tracee::seize_if_alive(tid);
    if (!task) continue;
    if (directory) task->set_wait_channel(wait_channel(*directory));  // it still runs
    task->interrupt_if_alive();
    if (!task->wait_stop(kPatience)) continue;
    if (Detour::obstacle(*task)) continue;
    // The others run: only its own stack is free.
    const user_regs_struct registers = task->registers();
    const auto stack = free_stack(mappings, registers.rsp);
    if (!stack) continue;
    const Detour::Place place{*gadgets, stack->low, stack->high, ignored};
    if (!place.has_room_for(scratch)) continue;
    if (!waits_with_restart_block(registers)) return {std::move(*task), place};
    if (!second_best) second_best = HostTask{std::move(*task), place};
  }
  if (!second_best) throw Error(tried, "none of its tasks is on an ordinary stack at the moment");
  return std::move(*second_best);
}

}  // namespace snapgdb
