#pragma once

#include <sys/stat.h>

#include <optional>
#include <string>

#include "core/image/snapshot.h"
#include "core/linux/freezer.h"
#include "core/linux/mount_tree.h"

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

// What is to be made of them. The snapshot and the plan must outlive it.
MountTree mount_tree_for(const Snapshot& snapshot, const RestorePlan& plan);

// Where we find what the tree knows by that path. `space`: that of its mounts, or nullptr: they are
// ours. nullopt: it is in a file system that is made anew.
std::optional<std::string> path_outside(const pb::NamespaceState* space, const std::string& path);
// stat(2), or lstat(2), of what the tree will find there; -1, with errno set: nothing. What is made
// anew has only a mode, a size and a time.
int stat_for_tree(const pb::NamespaceState* space, const std::string& path, struct stat& status,
                  bool follow = true);
// The mounts of the tree's own; nullptr: they are ours, or not in the image.
const pb::NamespaceState* own_mounts(const Snapshot& snapshot);

}  // namespace snapgdb
