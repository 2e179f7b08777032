#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "core/base/progress.h"
#include "core/linux/keeper.h"
#include "core/resource/cgroups.h"
#include "core/resource/message_queue.h"
#include "core/resource/mounts.h"
#include "core/resource/system_v.h"
#include "core/restore_plan.h"

namespace snapgdb {

// A tree that was restored, and is held short of its first instruction until it is released. If it
// is not, it is gone when this is destroyed, with everything that was made for it.
class RestoredTree {
 public:
  enum class Numbers { kOldIfFree, kOwn };  // of processes
  // Precondition: no obstacles in the plan. `scratch`: where to save what an isolated tree writes,
  // an empty directory; "": nowhere. `progress`, or nullptr: counts memory.
  // Throws Error, saying where it stopped.
  RestoredTree(const Snapshot& snapshot, const RestorePlan& plan, const std::string& scratch = "",
               Progress* progress = nullptr, Numbers numbers = Numbers::kOldIfFree);

  RestoredTree(RestoredTree&&) = default;
  // Ends all that was not let run.
  ~RestoredTree();

  // The first process, as we see it.
  Pid root() const { return root_; }
  // Whether the tree has numbers of its own: those it had are taken here, or not ours to choose.
  bool has_own_pids() const { return own_pids_; }
  // What is otherwise than it was and could not be known from the plan.
  const std::vector<std::string>& notes() const { return notes_; }
  // Lets every task run.
  void release(Keeper::We what);
  // After release(): waits for the first process's end. Calls that each time it is stopped.
  Keeper::End wait(const std::function<void()>& when_it_stops) {
    return keeper_->wait(when_it_stops);
  }

  // One of its tasks, by its numbers in the snapshot: short of its first instruction in user space,
  // and with the signal that was being delivered in the snapshot, if there was one.
  struct HeldTask {
    Pid pid;
    Tid tid;
    Tracee tracee;
  };
  // Instead of release(): lets every process run but those, whose tasks the caller has from now on.
  // All of the tree ends with this object, unless it is let go.
  std::vector<HeldTask> hand_over(std::span<const Pid> held);
  // Before that: the number of a process of the snapshot, as we see it; nullopt: nothing is left
  // of it but its exit status.
  std::optional<Pid> real_pid(const pb::Process& process) const;
  // After hand_over(): the tree lives without us.
  void let_go() { keeper_->let_go(Keeper::We::kGo); }
  // Whose children, and theirs, are the tree.
  Pid keeper() const { return Pid{keeper_->tid().value}; }

 private:
  void make(const std::string& scratch);
  void end_all();
  void start_keeper(const std::string& scratch);
  RestoreContext context() {
    return {
        snapshot_,      plan_,
        keeper_->tid(), notes_,
        lazy_,          late_files_,
        progress_,      [this](const pb::Process& process) -> Seed& { return seed_of(process); }};
  }
  void grow();
  void step(const Birth& birth);
  void bear(const Birth& birth);
  void bear_for_a_moment(const Birth& birth);
  void end_temporary(const Birth& birth);
  int32_t foreground_group_for(const pb::Process& leader);
  int32_t first_above(int32_t number) const;
  const pb::Process& memory_giver(int32_t parent) const;
  void restore_memory_of(const pb::Process& process);
  void make_threads(const pb::Process& process);
  Seed make_thread(const pb::Process& process, const pb::Thread& thread);
  void fill(const pb::Process& process);
  void end_leader(RestoreContext& context, const pb::Process& process);
  void seal_memfds();
  void queue_signals(const pb::Process& process);
  void finish(const pb::Process& process);
  void bring_memory_later();
  void detach_from_all();
  const pb::Process* find_process(int32_t number) const;  // nullptr: there is none
  const pb::Process& process_of(int32_t number) const;
  void join_group(const Birth& birth);
  Seed& seed_of(const pb::Process& process);
  Seed& seed_of(const pb::Thread& thread);

  const Snapshot& snapshot_;
  const RestorePlan& plan_;
  Progress* progress_;
  bool own_pids_ = false;
  Pid root_;
  MadeSystemV system_v_;  // these go last: the tree uses them
  MadeMessageQueues message_queues_;
  std::vector<std::string> notes_;
  RestoredCgroups cgroups_{notes_};
  ScratchOverlays overlays_;
  std::unique_ptr<Keeper> keeper_;
  std::vector<LazySpace> lazy_;
  std::map<size_t, Fd> late_files_;
  std::map<int32_t, const pb::Process*> memory_from_;  // whose they were born with, by own number
  std::map<int32_t, int32_t> temporary_;  // who is there for a moment, and whose child that is
  std::set<int32_t> has_memory_;          // own numbers
  std::map<int32_t, Seed> seeds_;         // by own number, of processes and threads
};

// The same, with numbers of its own where somebody takes one of the old ones meanwhile.
RestoredTree restored_whatever_runs(const Snapshot& snapshot, const RestorePlan& plan,
                                    const std::string& scratch, Progress* progress);

}  // namespace snapgdb
