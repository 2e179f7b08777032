#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/linux/mount_info.h"

namespace snapgdb {

// A file system that is not there yet.
struct NewFileSystem {
  std::string type, source, options;  // as mountinfo tells them
  // Makes what it holds at first; returns what is otherwise than it was. May be empty.
  std::function<std::vector<std::string>(const Fd& root)> fill;
  const Fd* made = nullptr;  // it is there already, and mounted nowhere
};

struct NewMount {
  MountInfo what;             // ids are those of this list
  std::string outside;        // where the caller sees the same; "": nowhere
  size_t file_system = 0;     // otherwise: in the list of those
  bool is_on_itself = false;  // a directory that was mounted where it is (mount --bind)
};

// One mount of each peer group (mount_namespaces(7)), by the number that mountinfo told.
using PeerGroups = std::map<uint32_t, Fd>;

struct MountTree {
  std::vector<NewMount> mounts;  // parents before what is mounted on them
  std::vector<NewFileSystem> file_systems;
  // Its root directory is ours: the mounts are ours, but for the differences.
  bool has_our_root = false;
  // The caller is in a sandbox: what is mounted there is not what was outside, settings of the
  // kernel in /proc and /sys cannot be written to, and nothing is heard from others.
  bool is_isolated = false;
  // Of other namespaces of the tree's, which these mounts may be peers of, or hear of.
  const PeerGroups* others = nullptr;
};

// Namespaces by their descriptors, in which a mount namespace is to be made: its mounts are at
// first those of `mounts`, and proc, sysfs and mqueue show what is in the others.
struct MountPlace {
  Fd mounts, network, ipc, pids;
  Fd owner = {};                 // the user namespace that it shall belong to
  uint32_t user = 0, group = 0;  // as whom it is made, as that one calls them
};
// By its descriptor, with what is otherwise than asked for. Throws SystemError.
struct MadeMounts {
  Fd space;
  PeerGroups groups;  // that have their first peer there
  std::vector<std::string> notes;
};
MadeMounts make_mount_namespace(const MountPlace& place, const MountTree& tree);

// Adds these to the mounts of another namespace, from those of `place`, which need not have an
// owner. Returns what is otherwise than asked for. Throws SystemError.
std::vector<std::string> add_mounts(const MountPlace& place, const Fd& mounts,
                                    const MountTree& tree);

// Makes the caller's mount namespace such a tree, and its root the caller's. Precondition: it is
// the caller's alone; the caller is in the pid, network and ipc namespaces that proc, sysfs and
// mqueue are to show. Returns what is otherwise than asked for. Throws SystemError.
std::vector<std::string> make_mounts(const MountTree& tree);

}  // namespace snapgdb
