// How a restored tree grows: processes, in the order of their births, and threads.

#include "core/restore.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/system_call_filter.h"
#include "core/resource/namespaces.h"
#include "core/resource/sharing.h"
#include "core/resource/spaces.h"
#include "core/resource/terminal.h"

namespace snapgdb {
namespace {

constexpr uint64_t kThread =
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;

// In that many pid namespaces from its own up.
std::vector<int32_t> numbers_now(Tid tid, size_t levels) {
  const ProcFields status(ProcDirectory::of(Pid{tid.value}).read("status"));
  std::vector<int32_t> numbers;
  for (const std::string_view number : split_blank(status.text("NSpid")))
    numbers.insert(numbers.begin(), parse_number<int32_t>(number).value_or(0));
  numbers.resize(std::min(levels, numbers.size()));
  return numbers;
}

}  // namespace

// First the processes; so that parents, sessions and groups come about by
// themselves.
void RestoredTree::grow() {
  Seed root = keeper_->take_root();
  root_ = Pid{root.tid().value};
  cgroups_.put(plan_, snapshot_.root(), root_);
  constexpr uint64_t kEndOfUserSpace = 0x7ffffffff000;
  const uint64_t end = plan_.seed_base + Seed::kSize;
  // From now on it dies with us (PTRACE_O_EXITKILL).
  root.add("outlive its parent", SYS_prctl, {PR_SET_PDEATHSIG, 0});
  // What the kernel would still look up there.
  if (const auto rseq = root.task().rseq(); rseq && rseq->address) {
    constexpr uint64_t kUnregister = 1;  // RSEQ_FLAG_UNREGISTER
    root.add("give up restartable sequences", SYS_rseq,
             {rseq->address, rseq->size, kUnregister, rseq->signature});
  }
  constexpr uint64_t kHeadSize = 24;  // struct robust_list_head
  root.add("give up robust futexes", SYS_set_robust_list, {0, kHeadSize});
  root.add("give up the address of its number", SYS_set_tid_address, {0});
  root.add("empty the address space", SYS_munmap, {0, plan_.seed_base});
  root.add("empty the address space", SYS_munmap, {end, kEndOfUserSpace - end});
  root.perform();
  if (has_filters(snapshot_)) suspend_filters(root.task());
  seeds_.emplace(tree_number(snapshot_, snapshot_.root()), std::move(root));
  for (const Birth& birth : plan_.births) step(birth);
  for (const pb::Process& process : snapshot_.processes()) {
    const bool leads = process.session() == process.pid() && !is_zombie(process);
    const auto master = leads ? master_for(snapshot_, plan_, process) : std::nullopt;
    const int32_t group = master ? foreground_group_for(process) : 0;
    if (group) set_foreground(seed_of(process), *master, group);
  }
  for (const pb::Process& process : snapshot_.processes())
    if (!is_zombie(process) && process.threads_size() == 1)
      give_children_pids(snapshot_, process, seed_of(process));
  RestoreContext shared = context();
  enter_mount_spaces(shared, overlays_);
  for (const pb::Process& process : snapshot_.processes())
    if (!is_zombie(process)) enter_spaces(plan_, process, seed_of(process));
}

// Of a session's terminal, as its leader sees it; 0: nobody is left in it. Its own leader may be
// gone.
int32_t RestoredTree::foreground_group_for(const pb::Process& leader) {
  for (const pb::Process& member : snapshot_.processes())
    if (member.group() > 0 && member.group() == leader.foreground_group())
      if (const int32_t number = number_for(snapshot_, member, leader))
        return static_cast<int32_t>(seed_of(leader).call(
            "ask for the group of a process", SYS_getpgid, {static_cast<uint64_t>(number)}));
  return 0;
}

// Those that are there for a moment are as that one is.
int32_t RestoredTree::first_above(int32_t number) const {
  while (temporary_.contains(number)) number = temporary_.at(number);
  return number;
}

// Whose memory a child of that one is born with: of several that have it in common, the first
// restores it. A zombie has none in common with others.
const pb::Process& RestoredTree::memory_giver(int32_t parent) const {
  const pb::Process& above = process_of(first_above(parent));
  if (is_zombie(above)) return above;
  return *std::ranges::find(snapshot_.processes(), above.address_space(),
                            &pb::Process::address_space);
}

// With the memory of its parent, so that both share what they shared; but not where that comes
// later only.
void RestoredTree::bear(const Birth& birth) {
  if (!plan_.lazy) {
    const pb::Process& giver = memory_giver(birth.other);
    restore_memory_of(giver);
    memory_from_[birth.pid] = &giver;
  }
  const pb::Process& process = process_of(birth.pid);
  const uint64_t flags = birth.shares | (begins_pids(snapshot_, process) ? CLONE_NEWPID : 0);
  seeds_.emplace(birth.pid, seeds_.at(birth.other)
                                .clone(fmt::format("make process {}", birth.pid), flags, SIGCHLD,
                                       all_numbers(snapshot_, process)));
  cgroups_.put(plan_, process, Pid{seeds_.at(birth.pid).tid().value});
  const pb::Process& above = process_of(first_above(birth.other));
  const uint64_t ipc = ipc_of(process);
  if (ipc && ipc != ipc_of(above)) enter_ipc(context(), process, ipc, seeds_.at(birth.pid));
  enter_clocks(context(), process, above, seeds_.at(birth.pid));
}

// Nobody is sent a signal at its end.
void RestoredTree::bear_for_a_moment(const Birth& birth) {
  if (!plan_.lazy) restore_memory_of(memory_giver(birth.other));
  temporary_[birth.pid] = birth.other;
  seeds_.emplace(birth.pid,
                 seeds_.at(birth.other).clone("make a process for a moment", 0, 0, birth.numbers));
}

void RestoredTree::end_temporary(const Birth& birth) {
  seeds_.at(birth.pid).end(0);
  seeds_.erase(birth.pid);
  temporary_.erase(birth.pid);
  constexpr auto kAnybody = static_cast<uint64_t>(-1);
  seeds_.at(birth.other)
      .call("reap a process that was there for a moment", SYS_wait4, {kAnybody, 0, __WCLONE, 0});
}

void RestoredTree::step(const Birth& birth) {
  const std::string name = fmt::format("process {}", birth.pid);
  switch (birth.step) {
    case Birth::Step::kClone:
      if (birth.other) bear(birth);
      break;
    case Birth::Step::kSetsid:
      seeds_.at(birth.pid).call("make a session of " + name, SYS_setsid);
      // One whose leader is gone has a leader for a moment that is in no record.
      if (const pb::Process* leader = find_process(birth.pid))
        if (const auto master = master_for(snapshot_, plan_, *leader))
          take_terminal(seeds_.at(birth.pid), *master);
      break;
    case Birth::Step::kSetpgid:
      join_group(birth);
      break;
    case Birth::Step::kExit:
      seeds_.at(birth.pid).end(process_of(birth.pid).exit_status());
      seeds_.erase(birth.pid);
      if (WCOREDUMP(process_of(birth.pid).exit_status()))
        notes_.push_back(fmt::format("process {}: its exit status does not say that it dumped core",
                                     process_of(birth.pid).pid()));
      break;
    case Birth::Step::kTemporary:
      bear_for_a_moment(birth);
      break;
    case Birth::Step::kEnd:
      end_temporary(birth);
      break;
    case Birth::Step::kAdoptOrphans:
      seeds_.at(birth.pid).call("have " + name + " adopt orphans", SYS_prctl,
                                {PR_SET_CHILD_SUBREAPER, static_cast<uint64_t>(birth.other)});
      break;
  }
}

// By itself; or by its parent, if it is in a pid namespace where the group has no number. (To the
// kernel, none of them has executed a program since it was born.)
void RestoredTree::join_group(const Birth& birth) {
  const std::string what = fmt::format("put process {} into its group", birth.pid);
  const pb::Process *process = find_process(birth.pid), *leader = find_process(birth.other);
  const auto join = [&](int32_t of, int32_t number, int32_t group) {
    seeds_.at(of).call(what, SYS_setpgid,
                       {static_cast<uint64_t>(number), static_cast<uint64_t>(group)});
  };
  if (!process) return join(birth.pid, 0, 0);  // one that leads it for a moment
  if (!leader) return join(birth.pid, 0, birth.numbers.front());
  const pid_t wanted = seeds_.at(birth.other).tid().value;
  if (::getpgid(seeds_.at(birth.pid).tid().value) == wanted) return;  // it was born into it
  if (const int32_t group = number_for(snapshot_, *leader, *process))
    return join(birth.pid, 0, group);
  const pb::Process* parent = snapshot_.process(process->parent());
  if (const int32_t group = parent ? number_for(snapshot_, *leader, *parent) : 0)
    return join(tree_number(snapshot_, *parent), number_for(snapshot_, *process, *parent), group);
  notes_.push_back(
      fmt::format("process {} stays in the group of its parent: that of {} has no number in their "
                  "pid namespace",
                  process->pid(), process->group()));
}

// Before anything that might forbid them, as limits do. They wait, while the first one does the
// work.
void RestoredTree::make_threads(const pb::Process& process) {
  for (const pb::Thread& thread : process.threads())
    if (thread.tid() != process.pid())
      seeds_.emplace(tree_number(snapshot_, thread), make_thread(process, thread));
  for (const pb::Thread& thread : process.threads())
    cgroups_.put(plan_, thread, seed_of(thread).tid());
}

Seed RestoredTree::make_thread(const pb::Process& process, const pb::Thread& thread) {
  Seed& leader = seed_of(process);
  const std::string what = fmt::format("make thread {} of process {}", thread.tid(), process.pid());
  const std::vector<int32_t> numbers = all_numbers(snapshot_, thread);
  if (!has_user_space(plan_, process)) return leader.clone(what, kThread, 0, numbers);
  // Who has no rights outside may choose no numbers there, and who has threads cannot give up its
  // rights: so it is us who choose. Somebody else may take the number meanwhile.
  constexpr int kTries = 100;
  for (int i = 0; i < kTries; ++i) {
    Fd pids = ProcDirectory::of(Pid{leader.tid().value}).open("ns/pid", O_RDONLY);
    for (const int32_t number : numbers) choose_next_number(pids, number), pids = parent_of(pids);
    Seed made = leader.clone(what, kThread, 0);
    if (numbers_now(made.tid(), numbers.size()) == numbers) return made;
    made.end_alone(0);
  }
  throw SystemError("cannot " + what + ", whose number is taken again and again", EEXIST);
}

}  // namespace snapgdb
