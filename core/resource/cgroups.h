#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/fd.h"
#include "core/linux/cgroup.h"
#include "core/resource/resource.h"
#include "core/resource/restorer.h"

namespace snapgdb {

// While the tree is stopped: which cgroups are the tree's own: below that of its first process, and
// that one itself if nobody else is in it; and where threads are others than their process. When
// the processes are known.
void capture_cgroups(CaptureContext& context, std::vector<pb::Process>& processes,
                     pb::SnapshotRecord& record);
// When it runs again: their settings, dozens of files each.
void finish_cgroups(CaptureContext& context, pb::SnapshotRecord& record);

// Where a cgroup namespace begins, from what /proc/PID/cgroup of a process says outside and inside
// of it. Not of hierarchies in which the process is elsewhere.
void add_cgroup_roots(std::string_view outside, std::string_view inside, pb::NamespaceState& state);

// What becomes of them.
void plan_cgroups(const Snapshot& snapshot, bool without, RestorePlan& plan);

// By which a process of a tree that is being made enters the cgroups where namespaces below begin,
// whatever it sees of them.
using CgroupDoors = std::map<CgroupPlace, Fd>;
// The calling process enters those of that one. Returns what is otherwise than it was.
std::vector<std::string> enter_root(const CgroupDoors& doors, const pb::NamespaceState& space);

// Those that a restore has made: gone with this, unless they are kept. The tree has to be gone by
// then.
class RestoredCgroups {
 public:
  explicit RestoredCgroups(std::vector<std::string>& notes) : notes_(notes) {}
  RestoredCgroups(const RestoredCgroups&) = delete;
  RestoredCgroups& operator=(const RestoredCgroups&) = delete;
  ~RestoredCgroups();

  void make(const Snapshot& snapshot, const RestorePlan& plan);
  // Where they were, a process as soon as it is born, so that its memory counts there. What rights
  // forbid is noted, once for each cgroup.
  void put(const RestorePlan& plan, const pb::Process& process, Pid real);
  void put(const RestorePlan& plan, const pb::Thread& thread, Tid real);
  CgroupDoors doors(const RestorePlan& plan) const;
  // Where the cgroup namespace of the tree begins, who is to make it.
  void put_where_namespace_begins(const RestorePlan& plan, Pid keeper);
  // Last of all.
  void freeze_again(const Snapshot& snapshot);
  void keep() { made_.clear(); }

 private:
  void set_up(const pb::Cgroup& cgroup);
  template <typename Record, typename Id>
  void move_all(const RestorePlan& plan, const Record& record, Id real, std::string_view who);
  void note_once(const std::string& text);

  Cgroups cgroups_;
  std::vector<CgroupPlace> made_;
  std::vector<std::string>& notes_;
};

}  // namespace snapgdb
