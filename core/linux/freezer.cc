#include "core/linux/freezer.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <set>

#include "core/base/clock.h"
#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/task.h"

namespace snapgdb {
namespace {

using Clock = std::chrono::steady_clock;

// How long a child may take to leave vfork(2) by itself, while everything runs and once the others
// are stopped. Most are about to exec; on a busy machine that takes some turns of the scheduler.
constexpr std::chrono::milliseconds kVforkPatience{50}, kVforkPatienceStopped{20};
// A task that is on no processor but does not stop is not worth that the others stand still for so
// long: it gets that fraction of the time.
constexpr int kHaste = 10;
constexpr std::string_view kVforkChannel = "kernel_clone";  // wait_for_vfork_done() is part of it

// A process as /proc shows it. Its directory is kept: what it tells later is of the same process.
struct Sighting {
  Pid pid;
  ProcDirectory proc;
  std::vector<Tid> tids;
};

class Freezer {
 public:
  Freezer(const std::vector<Pid>& roots, Tracees& tracees, FreezeOptions options)
      : roots_(roots), tracees_(tracees), options_(options) {}

  FrozenTree run();

 private:
  std::vector<Sighting> look();
  bool is_all_there_is(const std::vector<Sighting>& tree) const;
  void look_at(const Sighting& process);
  bool prepare(ProcDirectory& directory, std::span<const std::string> files);
  void await_ends_of_vfork() const;
  void await_ends_of_deep_sleep() const;
  [[noreturn]] static void give_up(Tid tid);
  bool stop_what_is_new(const std::vector<Sighting>& tree);
  bool stop_if_new(Tid tid);
  bool stop_task(FrozenTask& task);
  void wait_for_all();
  void wait_for(Tracee& tracee);
  static bool stops(Tracee& tracee);
  bool is_held_by_vfork(Tracee& parent);
  std::vector<Tracee*> stopped_children_of(Tid tid);
  FrozenProcess describe(Sighting process) const;

  const std::vector<Pid>& roots_;
  Tracees& tracees_;
  bool is_followed_ = !tracees_.empty();  // by the caller, since it began
  FreezeOptions options_;
  std::map<Tid, FrozenTask> met_;  // every task met, as it was before we stopped it
  std::set<Tid> held_;             // stopped, about to be, or gone
  std::set<Tid> of_kernel_;        // ProcStat::works_for_kernel(): what they do goes on
  TaskCount tasks_made_;           // before the last look
  size_t descriptors_ = 0;         // of our own that may still be taken
};

[[noreturn]] void refuse(Pid pid, std::string why, std::string help = "") {
  throw Error(fmt::format("cannot capture process {}", pid.value), std::move(why), std::move(help));
}

void check_root(Pid pid) {
  const auto proc = ProcDirectory::of_if_alive(pid);
  const auto stat = proc ? proc->stat_if_alive() : std::nullopt;
  if (!stat) refuse(pid, "there is no such process");
  // A thread's number has a directory in /proc too, though it is not listed there.
  const ProcFields status(proc->read("status"));
  if (const auto leader = static_cast<pid_t>(status.number("Tgid")); leader != pid.value)
    refuse(pid, fmt::format("it is a thread of process {}", leader), "capture that process");
  if (stat->state == 'Z' && proc->tasks().size() == 1)
    refuse(pid, "it is a zombie: it has exited, only its exit status is left");
}

// What the resources of processes and threads read of /proc once everything is stopped. To have it
// open by then leaves a third of the system calls.
const std::vector<std::string> kFilesOfProcess = {"stat", "status", "limits", "cgroup",
                                                  "coredump_filter"};

std::vector<std::string> files_of(Tid tid, Pid pid) {
  std::vector<std::string> files = {"stat", "loginuid", timer_slack_file(tid)};
  if (tid == leader_of(pid))  // whose status is that of the process
    files.insert(files.end(), {"personality", "oom_score_adj"});
  else
    files.push_back("status");
  return files;
}

// Half of them: there are others to be opened.
size_t descriptors_to_spare() {
  rlimit limit{};
  return ::getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur / 2 : 0;
}

bool is_traced_by_us(Tid tid) {
  const auto task = ProcDirectory::of_if_alive(Pid{tid.value});  // threads have a /proc/TID too
  const ProcFields status(task ? task->read_if_allowed("status").value_or("") : "");
  return static_cast<pid_t>(status.number("TracerPid")) == ::getpid();
}

bool has_state(Tid tid, char state) {
  const auto stat = stat_of_if_alive(tid);
  return stat && stat->state == state;
}
bool sleeps_deeply(Tid tid) {
  return has_state(tid, 'D');
}

// "it sleeps uninterruptibly in do_sys_poll"
std::string why_it_does_not_stop(Tid tid) {
  const auto task = ProcDirectory::of_if_alive(Pid{tid.value});  // threads have a /proc/TID too
  const auto stat = task ? task->stat_if_alive() : std::nullopt;
  if (!stat) return "it is gone";
  if (stat->state != 'D') return fmt::format("its state is {}", stat->state);
  const std::string channel = wait_channel(*task);
  return fmt::format("it sleeps uninterruptibly{}{}", channel.empty() ? "" : " in ", channel);
}

// The call in which a parent waits for its child to exec or exit, if that is what the task does.
// One whose child is not its own (CLONE_PARENT) does not count: nobody may be holding that.
std::optional<CallInProgress> vfork_of(const ProcDirectory& task, Tid tid) {
  if (wait_channel(task) != kVforkChannel) return std::nullopt;
  auto call = parse_call(task.read_if_allowed("syscall").value_or(""));
  const bool forks = call && (call->number == SYS_vfork || call->number == SYS_clone ||
                              call->number == SYS_clone3);
  const auto stat = task.stat_if_alive();
  const bool waits = forks && stat && stat->state == 'D' && !task.children_of({tid}).empty();
  return waits ? call : std::nullopt;
}

std::optional<CallInProgress> vfork_of_if_alive(Tid tid) {
  const auto task = ProcDirectory::of_if_alive(Pid{tid.value});  // threads have a /proc/TID too
  return task ? vfork_of(*task, tid) : std::nullopt;
}

// The processes of the trees, parents first.
std::vector<Sighting> look_around(const std::vector<Pid>& roots) {
  std::vector<Sighting> found;
  std::set<Pid> seen;
  std::deque<Pid> next(roots.begin(), roots.end());
  for (; !next.empty(); next.pop_front()) {
    auto proc = ProcDirectory::of_if_alive(next.front());
    if (!proc || !seen.insert(next.front()).second) continue;
    std::vector<Tid> tids;
    try {
      tids = proc->tasks();
    } catch (const SystemError& error) {
      // It exited between the two looks; its children, if any, are no longer of this tree.
      if (is_own_shortage(error.error_number())) throw;
    }
    for (const Pid child : proc->children_of(tids)) next.push_back(child);
    found.push_back({next.front(), std::move(*proc), std::move(tids)});
  }
  return found;
}

FrozenTree Freezer::run() {
  require_proc();
  if (!is_followed_)
    for (const Pid root : roots_) check_root(root);
  std::vector<Sighting> seen = look();
  descriptors_ = descriptors_to_spare();
  // What tasks do is best asked before the first of them is stopped: it takes time.
  for (Sighting& process : seen) look_at(process), prepare(process.proc, kFilesOfProcess);
  await_ends_of_vfork();
  await_ends_of_deep_sleep();
  FrozenTree tree;
  tree.first_stop_ns = now_ns(CLOCK_MONOTONIC);
  // What is stopped can start nothing new: once a look around finds nothing, the tree is whole.
  while (stop_what_is_new(seen)) {
    wait_for_all();
    if (is_all_there_is(seen)) break;
    seen = look();
  }
  for (Sighting& process : seen) tree.processes.push_back(describe(std::move(process)));
  if (std::ranges::all_of(tree.processes, &FrozenProcess::zombie))
    refuse(roots_.front(), "it exited while it was being stopped");
  return tree;
}

std::vector<Sighting> Freezer::look() {
  tasks_made_ = TaskCount::now();
  return look_around(roots_);
}

// Whether another look would find the same: nobody on this machine made a task since the last one,
// and everybody seen then who can be is stopped. (Looking takes four system calls a task.)
bool Freezer::is_all_there_is(const std::vector<Sighting>& tree) const {
  const auto makes_none = [this](Tid tid) {
    const auto found = tracees_.find(tid);
    return (found != tracees_.end() && found->second.is_stopped()) || of_kernel_.contains(tid);
  };
  return tasks_made_.is_known() && tasks_made_ == TaskCount::now() &&
         std::ranges::all_of(tree, [&](const Sighting& process) {
           return !process.tids.empty() && std::ranges::all_of(process.tids, makes_none);
         });
}

void Freezer::look_at(const Sighting& process) {
  if (process.pid.value == ::getpid())
    refuse(roots_.front(), fmt::format("snapgdb itself ({}) is in its tree", process.pid.value),
           "start snapgdb from elsewhere, for example with setsid or from another terminal");
  for (const Tid tid : process.tids) {
    if (met_.contains(tid) || of_kernel_.contains(tid)) continue;
    try {
      ProcDirectory task = process.proc.task(tid);
      const bool is_kept = prepare(task, files_of(tid, process.pid));
      const ProcStat stat = task.stat();
      if (stat.works_for_kernel()) {
        of_kernel_.insert(tid);
        continue;
      }
      FrozenTask& met = met_[tid] = {tid, stat.state, wait_channel(task)};
      if (is_kept) met.proc = std::move(task);
    } catch (const SystemError& error) {
      if (is_own_shortage(error.error_number())) throw;  // or else the task exited meanwhile
    }
  }
}

// False: there are too many of them.
bool Freezer::prepare(ProcDirectory& directory, std::span<const std::string> files) {
  if (descriptors_ < files.size() + 1) return false;
  descriptors_ -= files.size() + 1;
  directory.prepare(files);
  return true;
}

void Freezer::await_ends_of_vfork() const {
  const auto deadline = Clock::now() + kVforkPatience;
  for (const auto& [tid, task] : met_)
    while (task.wait_channel_before == kVforkChannel && vfork_of_if_alive(tid) &&
           Clock::now() < deadline)
      ::usleep(100);
}

// While everything else still runs: nothing can be stopped there.
void Freezer::await_ends_of_deep_sleep() const {
  const auto deadline = Clock::now() + options_.patience;
  for (const auto& [tid, task] : met_)
    while (task.state_before == 'D' && task.wait_channel_before != kVforkChannel &&
           sleeps_deeply(tid)) {
      if (Clock::now() > deadline) give_up(tid);
      ::usleep(1000);
    }
}

void Freezer::give_up(Tid tid) {
  throw Error(fmt::format("cannot stop task {}", tid.value), why_it_does_not_stop(tid),
              "try again, or end what it waits for");
}

bool Freezer::stop_what_is_new(const std::vector<Sighting>& tree) {
  bool anything_new = false;
  for (const Sighting& process : tree) {
    look_at(process);
    for (const Tid tid : process.tids)
      if (!held_.contains(tid)) anything_new |= stop_if_new(tid);
  }
  return anything_new;
}

// False: there is nothing to be stopped.
bool Freezer::stop_if_new(Tid tid) {
  const auto met = met_.find(tid);
  if (met == met_.end()) return false;
  FrozenTask& task = met->second;
  if (task.wait_channel_before == kVforkChannel) {
    const bool known = task.in_vfork.has_value();
    task.in_vfork = vfork_of_if_alive(tid);
    // Seen again after all others were stopped, it stays where it is.
    if (task.in_vfork) return !known;
  }
  held_.insert(tid);
  return task.state_before != 'Z' && task.state_before != 'X' && stop_task(task);
}

bool Freezer::stop_task(FrozenTask& task) {
  auto known = tracees_.find(task.tid);
  if (known == tracees_.end()) {
    // Who was born of a task that is followed is ours already, and stops by itself.
    if (is_followed_ && is_traced_by_us(task.tid)) {
      tracees_.emplace(task.tid, Tracee::adopt(task.tid, tracees_.begin()->second.options()));
      return true;
    }
    auto tracee = Tracee::seize_if_alive(task.tid);
    if (!tracee) return false;
    known = tracees_.emplace(task.tid, std::move(*tracee)).first;
  }
  if (known->second.is_stopped()) {
    task.state_before = 'R';  // held by us as it ran into a signal
    task.wait_channel_before.clear();
  } else {
    known->second.set_wait_channel(task.wait_channel_before);
    known->second.interrupt_if_alive();
  }
  return true;
}

void Freezer::wait_for_all() {
  for (auto& [tid, tracee] : tracees_)
    if (held_.contains(tid)) wait_for(tracee);
}

// A task that is followed may report what it is doing (fork(2), execve(2)) in the middle of it:
// the stop that it was asked for comes after that.
bool Freezer::stops(Tracee& tracee) {
  while (tracee.poll_stop()) {
    const int event = tracee.status().event();
    if (event == 0 || event == PTRACE_EVENT_STOP) return true;
    tracee.interrupt_if_alive();
    tracee.resume_if_alive(0);
  }
  return false;
}

void Freezer::wait_for(Tracee& tracee) {
  constexpr useconds_t kShort = 200, kLong = 5000;
  const auto began = Clock::now();
  for (useconds_t pause = 20; !stops(tracee); pause = std::min(pause * 2, kLong)) {
    if (tracee.status().gone()) return;
    if (pause > kShort && is_held_by_vfork(tracee)) return;
    // A leader that is gone while its threads live: nobody is told of its end before theirs.
    if (pause > kShort && has_state(tracee.tid(), 'Z')) return;
    const auto waited = Clock::now() - began;
    if (waited > options_.patience ||
        (waited > options_.patience / kHaste && sleeps_deeply(tracee.tid())))
      give_up(tracee.tid());
    ::usleep(pause);
  }
}

// A task that was in the middle of vfork(2) when it was seized. Its child may be held short of its
// exec, which is given another chance; a child that does not take it holds the parent.
bool Freezer::is_held_by_vfork(Tracee& parent) {
  FrozenTask& task = met_.at(parent.tid());
  task.in_vfork = vfork_of_if_alive(parent.tid());
  if (!task.in_vfork) return false;
  const auto children = stopped_children_of(parent.tid());
  for (Tracee* child : children) child->resume_if_alive(0);
  const auto deadline = Clock::now() + kVforkPatienceStopped;
  while (!parent.poll_stop() && !parent.status().gone() && Clock::now() < deadline) ::usleep(50);
  for (Tracee* child : children) {
    child->interrupt_if_alive();
    wait_for(*child);
  }
  if (!parent.poll_stop() && !children.empty()) return true;
  task.in_vfork.reset();
  return false;
}

// Those that job control or a signal has stopped are left as they are.
std::vector<Tracee*> Freezer::stopped_children_of(Tid tid) {
  std::vector<Tracee*> stopped;
  const auto proc = ProcDirectory::of_if_alive(Pid{tid.value});
  if (!proc) return stopped;
  for (const Pid child : proc->children_of({tid})) {
    const auto found = tracees_.find(leader_of(child));
    if (found == tracees_.end()) continue;
    wait_for(found->second);
    const WaitStatus status = found->second.status();
    if (status.stopped() && !status.signal_delivery() && !status.job_control_stop())
      stopped.push_back(&found->second);
  }
  return stopped;
}

FrozenProcess Freezer::describe(Sighting process) const {
  std::vector<FrozenTask> tasks;
  for (const Tid tid : process.tids) {
    const auto met = met_.find(tid);
    if (met == met_.end()) continue;
    FrozenTask task = met->second;
    const auto tracee = tracees_.find(tid);
    const bool stopped = tracee != tracees_.end() && tracee->second.is_stopped();
    if (stopped) task.in_vfork.reset();
    if (stopped || task.in_vfork) tasks.push_back(std::move(task));
  }
  std::ranges::stable_partition(
      tasks, [&](const FrozenTask& task) { return task.tid == leader_of(process.pid); });
  ProcDirectory task_proc = tasks.empty()        ? process.proc.task(leader_of(process.pid))
                            : tasks.front().proc ? *tasks.front().proc
                                                 : process.proc.task(tasks.front().tid);
  return {process.pid, std::move(process.proc), std::move(task_proc), std::move(tasks)};
}

// What is read on the first demand.
const ProcFields& known(std::unique_ptr<const ProcFields>& fields, const ProcDirectory& proc) {
  if (!fields) fields = std::make_unique<const ProcFields>(proc.read("status"));
  return *fields;
}

}  // namespace

const ProcFields& FrozenProcess::status() const {
  return known(status_, proc);
}
const ProcFields& FrozenProcess::task_status() const {
  return has_leader() ? status() : known(task_status_, task_proc);
}
const ProcStat& FrozenProcess::stat() const {
  if (!stat_) stat_ = proc.stat();
  return *stat_;
}
ProcStat FrozenProcess::task_stat() const {
  return has_leader() ? stat() : task_proc.stat();
}
const std::vector<ProcMapping>& FrozenProcess::mappings() const {
  if (!mappings_) mappings_ = parse_mappings(task_proc.read("maps"));
  return *mappings_;
}
const ProcDirectory& FrozenProcess::living() const {
  if (has_leader()) return proc;
  if (!living_) living_ = ProcDirectory::of(Pid{a_task().value});
  return *living_;
}

std::vector<Pid> tree_below(const std::vector<Pid>& roots) {
  std::vector<Pid> pids;
  for (const Sighting& process : look_around(roots)) pids.push_back(process.pid);
  return pids;
}

FrozenTree freeze(const std::vector<Pid>& roots, Tracees& tracees, FreezeOptions options) {
  return Freezer(roots, tracees, options).run();
}

}  // namespace snapgdb
