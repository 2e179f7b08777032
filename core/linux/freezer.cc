#include "core/linux/freezer.h"

#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <set>

#include "core/base/error.h"
#include "core/base/strings.h"

namespace snapgdb {
namespace {

class Freezer {
 public:
  Freezer(const std::vector<Pid>& roots, Tracees& tracees, FreezeOptions options)
      : roots_(roots), tracees_(tracees), options_(options) {}

  FrozenTree run();

 private:
  bool stop_what_is_new();
  bool stop_new_tasks(Pid pid);
  bool stop_task(const ProcDirectory& proc, Tid tid);
  void wait_for_all();
  void wait_for(Tracee& tracee);
  FrozenProcess describe(Pid pid, ProcDirectory proc) const;

  const std::vector<Pid>& roots_;
  Tracees& tracees_;
  FreezeOptions options_;
  std::map<Tid, FrozenTask> states_;  // of every task met
};

[[noreturn]] void refuse(Pid pid, std::string why, std::string help = "") {
  throw Error(fmt::format("cannot capture process {}", pid.value), std::move(why), std::move(help));
}

void check_root(Pid pid) {
  const auto proc = ProcDirectory::of_if_alive(pid);
  if (!proc) refuse(pid, "there is no such process");
  // A thread's number has a directory in /proc too, though it is not listed there.
  const ProcFields status(proc->read("status"));
  if (const auto leader = static_cast<pid_t>(status.number("Tgid")); leader != pid.value)
    refuse(pid, fmt::format("it is a thread of process {}", leader), "capture that process");
  if (proc->stat().state == 'Z' && proc->tasks().size() == 1)
    refuse(pid, "it is a zombie: it has exited, only its exit status is left");
}

// The kernel may be built without names, or keep them from us.
std::string wait_channel(const ProcDirectory& task) {
  const std::string channel = task.read_if_allowed("wchan").value_or("0");
  return channel == "0" ? "" : channel;
}

// "it sleeps uninterruptibly in do_sys_poll"
std::string why_it_does_not_stop(Tid tid) {
  const auto proc = ProcDirectory::of_if_alive(Pid{tid.value});
  if (!proc) return "it is gone";
  const char state = proc->stat().state;
  const std::string channel = wait_channel(*proc);
  if (state == 'D')
    return fmt::format("it sleeps uninterruptibly{}{}", channel.empty() ? "" : " in ", channel);
  return fmt::format("its state is {}", state);
}

FrozenTree Freezer::run() {
  for (const Pid root : roots_) check_root(root);
  FrozenTree tree;
  tree.first_stop_ns = now_ns(CLOCK_MONOTONIC);
  // What is stopped can start nothing new: once a look around finds nothing, the tree is whole.
  while (stop_what_is_new()) wait_for_all();
  for (const Pid pid : tree_below(roots_))
    if (auto proc = ProcDirectory::of_if_alive(pid))
      tree.processes.push_back(describe(pid, std::move(*proc)));
  if (std::ranges::all_of(tree.processes, &FrozenProcess::zombie))
    refuse(roots_.front(), "it exited while it was being stopped");
  return tree;
}

bool Freezer::stop_what_is_new() {
  bool anything_new = false;
  for (const Pid pid : tree_below(roots_)) {
    if (pid.value == ::getpid())
      refuse(roots_.front(), fmt::format("snapgdb itself ({}) is in its tree", pid.value),
             "start snapgdb from elsewhere, for example with setsid or from another terminal");
    anything_new |= stop_new_tasks(pid);
  }
  return anything_new;
}

bool Freezer::stop_new_tasks(Pid pid) {
  const auto proc = ProcDirectory::of_if_alive(pid);
  if (!proc) return false;
  std::vector<Tid> tids;
  try {
    tids = proc->tasks();
  } catch (const SystemError&) {
    return false;  // it exited meanwhile
  }
  bool anything_new = false;
  for (const Tid tid : tids)
    if (!states_.contains(tid)) anything_new |= stop_task(*proc, tid);
  return anything_new;
}

// False: it is gone, or only its exit status is left.
bool Freezer::stop_task(const ProcDirectory& proc, Tid tid) {
  FrozenTask& before = states_[tid];
  try {
    const ProcDirectory task = proc.task(tid);
    before = {tid, task.stat().state, wait_channel(task)};
  } catch (const SystemError&) {
    return false;  // the task exited meanwhile
  }
  if (before.state_before == 'Z' || before.state_before == 'X') return false;
  auto known = tracees_.find(tid);
  if (known == tracees_.end()) {
    auto tracee = Tracee::seize_if_alive(tid);
    if (!tracee) return false;
    known = tracees_.emplace(tid, std::move(*tracee)).first;
  }
  if (known->second.is_stopped())
    before = {tid, 'R', ""};  // held by us as it ran into a signal
  else
    known->second.interrupt_if_alive();
  return true;
}

void Freezer::wait_for_all() {
  for (auto& [tid, tracee] : tracees_)
    if (states_.contains(tid)) wait_for(tracee);
}

void Freezer::wait_for(Tracee& tracee) {
  const auto deadline = std::chrono::steady_clock::now() + options_.patience;
  for (useconds_t pause = 20; !tracee.poll_stop(); pause = std::min<useconds_t>(pause * 2, 5000)) {
    if (tracee.status().gone()) return;
    if (std::chrono::steady_clock::now() > deadline)
      throw Error(fmt::format("cannot stop task {}", tracee.tid().value),
                  why_it_does_not_stop(tracee.tid()), "try again, or end what it waits for");
    ::usleep(pause);
  }
}

FrozenProcess Freezer::describe(Pid pid, ProcDirectory proc) const {
  std::vector<FrozenTask> tasks;
  for (const Tid tid : proc.tasks()) {
    const auto tracee = tracees_.find(tid);
    if (tracee == tracees_.end() || !tracee->second.is_stopped()) continue;
    tasks.push_back(states_.at(tid));
  }
  std::ranges::stable_partition(tasks,
                                [&](const FrozenTask& task) { return task.tid == leader_of(pid); });
  const bool zombie = tasks.empty();
  ProcDirectory task_proc = proc.task(zombie ? leader_of(pid) : tasks.front().tid);
  return {pid, std::move(proc), std::move(task_proc), zombie, std::move(tasks)};
}

}  // namespace

std::vector<Pid> tree_below(const std::vector<Pid>& roots) {
  std::vector<Pid> found;
  std::set<Pid> seen;
  std::deque<Pid> next(roots.begin(), roots.end());
  for (; !next.empty(); next.pop_front()) {
    const auto proc = ProcDirectory::of_if_alive(next.front());
    if (!proc || !seen.insert(next.front()).second) continue;
    found.push_back(next.front());
    try {
      for (const Pid child : proc->children()) next.push_back(child);
    } catch (const SystemError&) {
      // It exited between the two looks; its children, if any, are no longer of this tree.
    }
  }
  return found;
}

FrozenTree freeze(const std::vector<Pid>& roots, Tracees& tracees, FreezeOptions options) {
  return Freezer(roots, tracees, options).run();
}

ScopedUrgency::ScopedUrgency() : policy_(::sched_getscheduler(0)) {
  // Above every normal task; below the watchdogs and interrupt threads, which use 50 and 99.
  const sched_param parameters{.sched_priority = 10};
  changed_ = policy_ == SCHED_OTHER &&
             ::sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &parameters) == 0;
}

ScopedUrgency::~ScopedUrgency() {
  const sched_param parameters{};
  if (changed_) ::sched_setscheduler(0, policy_, &parameters);
}

uint64_t now_ns(int clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

}  // namespace snapgdb
