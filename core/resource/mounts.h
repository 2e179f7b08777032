#pragma once

#include <sys/stat.h>

#include <map>
#include <optional>
#include <string>

#include "core/image/snapshot.h"
#include "core/linux/freezer.h"
#include "core/linux/mount_tree.h"
#include "core/resource/user_numbers.h"

namespace snapgdb {

struct CaptureContext;
struct RestorePlan;

// While the tree is stopped: the mounts of the namespace that the process is in, and what those
// hold that live in memory and that nobody outside has.
void capture_mounts(CaptureContext& context, const FrozenProcess& frozen, pb::NamespaceState& out);

// What becomes of the mounts of the tree, and what is in the way.
void plan_mounts(const Snapshot& snapshot, RestorePlan& plan);
// Line by line.
std::string describe_mounts(const pb::NamespaceState& space);

// What is to be made of them, for who knows users by these numbers. The snapshot must outlive it.
struct MountParts {
  MountTree first;
  // By inode of a pid namespace below: what shows it, and what is mounted on that. Made once the
  // first process of that is there.
  std::map<uint64_t, MountTree> later;
};
// Of a tree in a sandbox, by device: overlays of its own, which it may write to, and whose layers
// stay as they are. They have to be made outside. Throws SystemError.
using ScratchOverlays = std::map<uint64_t, Fd>;
ScratchOverlays make_scratch_overlays(const RestorePlan& plan);
// `overlays` must outlive it, too.
MountParts mounts_for(const Snapshot& snapshot, const RestorePlan& plan,
                      const pb::NamespaceState& space, const UserNumbers& numbers,
                      const ScratchOverlays& overlays);
// One of each peer group, where it is not covered. `root`: the root directory there.
PeerGroups peers_in(const pb::NamespaceState& space, const Fd& root);

// Where the first process of the tree finds what is known by that path in a mount namespace below
// its own. nullopt: nowhere.
std::optional<std::string> path_above(const RestorePlan& plan, const pb::NamespaceState& space,
                                      const std::string& path);

// Where we find what the tree knows by that path. `space`: that of its mounts, or nullptr: they are
// ours. nullopt: it is in a file system that is made anew.
std::optional<std::string> path_outside(const pb::NamespaceState* space, const std::string& path);
// stat(2), or lstat(2), of what the tree will find there; -1, with errno set: nothing. What is made
// anew has only a mode, a size and a time.
int stat_for_tree(const pb::NamespaceState* space, const std::string& path, struct stat& status,
                  bool follow = true);
// The mounts of the tree's own; nullptr: they are ours, or not in the image.
const pb::NamespaceState* own_mounts(const Snapshot& snapshot);
// The same of a process of it, and of what is open.
const pb::NamespaceState* mounts_of(const Snapshot& snapshot, const pb::Process& process);
const pb::NamespaceState* mounts_of(const Snapshot& snapshot, const pb::Descriptor& descriptor);
// The same where paths are looked up for a restore: those of the first process, if it makes no
// others.
const pb::NamespaceState* planned_mounts(const Snapshot& snapshot, const RestorePlan& plan,
                                         const pb::Process& process);
const pb::NamespaceState* planned_mounts(const Snapshot& snapshot, const RestorePlan& plan,
                                         const pb::Descriptor& descriptor);
// Whether they are others than those of the first process.
bool is_below(const Snapshot& snapshot, const pb::NamespaceState* mounts);

}  // namespace snapgdb
