#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/image/snapshot.h"
#include "core/linux/ipc_settings.h"
#include "core/linux/procfs.h"

namespace snapgdb {

// What is known of user namespaces, by inode. May be used by several threads.
class UserNamespaces {
 public:
  // What `read` tells of this one, which is asked once.
  pb::Namespace known(uint64_t inode, const std::function<pb::Namespace()>& read);

 private:
  std::mutex mutex_;
  std::map<uint64_t, pb::Namespace> known_;
};

// Those that /proc/PID/ns shows, by kind; namespaces(7).
std::vector<pb::Namespace> namespaces_of(const ProcDirectory& proc, UserNamespaces& users);

using Namespaces = google::protobuf::RepeatedPtrField<pb::Namespace>;
// The inode of one; 0: it is not known.
uint64_t namespace_in(const Namespaces& namespaces, std::string_view kind);

struct CaptureContext;
struct RestorePlan;
// While the tree is stopped: the namespaces that are its own, and what they hold.
void capture_namespaces(CaptureContext& context, const std::vector<pb::Process>& processes,
                        pb::SnapshotRecord& record);
// When it runs again: the rest of them.
void finish_namespaces(CaptureContext& context, pb::SnapshotRecord& record);

// That namespace of the process, if who took the snapshot was not in it; nullptr otherwise.
const pb::NamespaceState* own_namespace(const Snapshot& snapshot, const pb::Process& process,
                                        std::string_view kind);

// Which namespaces are made for the tree, and what users and groups are called in them; and what is
// in the way. `without` "mounts", "network": it has ours.
void plan_namespaces(const Snapshot& snapshot, const std::set<std::string>& without,
                     RestorePlan& plan);
// Of an ipc namespace; none of nullptr.
IpcSettings settings_in(const pb::NamespaceState* space);
// Line by line.
std::string describe_namespaces(const RestorePlan& plan);

// Of a clock of the tree (CLOCK_MONOTONIC, CLOCK_BOOTTIME) at the moment of the snapshot, ns.
int64_t tree_clock(const Snapshot& snapshot, int clock);
// The same in that time namespace of the tree's; nullptr: in that of who took the snapshot.
int64_t clock_in(const Snapshot& snapshot, const pb::NamespaceState* time, int clock);

}  // namespace snapgdb
