#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/image/snapshot.h"
#include "core/linux/namespaces.h"
#include "core/resource/cgroups.h"
#include "core/resource/mounts.h"
#include "core/resource/restorer.h"

namespace snapgdb {

// Namespaces of the tree's own that its first process is not in: which are made, and what is in the
// way. `without`: kinds of RestoreOptions.
bool has_spaces_below(const Snapshot& snapshot, const std::set<std::string>& without);
void plan_spaces(const Snapshot& snapshot, const std::set<std::string>& without, RestorePlan& plan);
// Line by line.
std::string describe_spaces(const RestorePlan& plan);

// Whether it is one of those that are made.
bool is_in_space(const RestorePlan& plan, uint64_t inode);

// The ipc namespace of a process; 0: it has exited.
uint64_t ipc_of(const pb::Process& process);
// Whether a new one is made in place of that one, which processes of the tree were in.
bool is_new_ipc(const RestorePlan& plan, uint64_t space);
// Somebody who lives in that namespace; nullptr: nobody does.
const pb::Process* member_of(const Snapshot& snapshot, std::string_view kind, uint64_t inode);

// Whether it is in a user namespace below.
bool has_user_space(const RestorePlan& plan, const pb::Process& process);
// By which numbers the process knows users.
UserNumbers numbers_for(const RestorePlan& plan, const pb::Process& process);

// What an ipc namespace of the tree held, in the one in its place, where the calling thread is. It
// goes with that namespace.
void make_ipc_objects(const Snapshot& snapshot, const RestorePlan& plan, uint64_t space);

// They are made in the keeper, before anybody is born, and have descriptors in all seeds.
class NestedSpaces {
 public:
  // Precondition: the calling process has one thread, is in the namespaces of the tree's first
  // process, and /proc shows it. `ours`: the clocks of who restores. Throws SystemError.
  NestedSpaces(const Snapshot& snapshot, const RestorePlan& plan, const ClockOffsets& ours,
               const CgroupDoors& doors);

  // What is otherwise than it was.
  const std::vector<std::string>& notes() const { return notes_; }
  // Does something in that namespace, with our memory and descriptors; in the caller's, if it is
  // none of these. `kind`: "net", …
  void in(std::string_view kind, uint64_t inode, const std::function<void()>& work) const;
  // Behind all others, as enter_spaces() expects them.
  void add_to(std::vector<Fd>& files);

 private:
  Fd make(const Snapshot& snapshot, const pb::NamespaceState& state, const ClockOffsets& ours,
          const CgroupDoors& doors);
  void make_networks();

  const RestorePlan& plan_;
  std::vector<Fd> made_;  // as plan.spaces
  std::vector<std::string> notes_;
};

// Whether it is the first process of a pid namespace below.
bool begins_pids(const Snapshot& snapshot, const pb::Process& process);
// Has the children that the process will have be born into the pid namespace that its last ones
// were. Only who has one thread can, and who has its rights outside still.
void give_children_pids(const Snapshot& snapshot, const pb::Process& process, Seed& seed);

// Has a process enter an ipc namespace of the tree, where what it attaches then comes from.
void enter_ipc(const RestoreContext& context, const pb::Process& process, uint64_t space,
               Seed& seed);

// Has a process enter the time namespace that it was in, if `above`, whose child it was born, is in
// another one. Before it has children: who shares its memory with another process cannot.
void enter_clocks(const RestoreContext& context, const pb::Process& process,
                  const pb::Process& above, Seed& seed);

// Makes those of mounts, and has their processes enter them: when all are born, and are in no other
// namespaces yet.
void enter_mount_spaces(RestoreContext& context, const ScratchOverlays& overlays);

// Has a process, which has one thread, enter the others that it was in: the end of its rights
// outside.
void enter_spaces(const RestorePlan& plan, const pb::Process& process, Seed& seed);

}  // namespace snapgdb
