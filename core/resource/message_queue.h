#pragma once

#include <vector>

#include "core/resource/resource.h"
#include "core/resource/restorer.h"

namespace snapgdb {

// Says what is missing: queues in ipc namespaces of the tree's own that nobody has open. When the
// tree runs again, since it takes mounting their file system.
void report_unopened_queues(CaptureContext& context, const std::vector<pb::Process>& processes,
                            const pb::SnapshotRecord& record);

// What becomes of the POSIX message queues that the tree has open, and what is in the way. After
// plan_system_v(), which tells whether it gets an ipc namespace of its own.
void plan_message_queues(const Snapshot& snapshot, bool without, RestorePlan& plan);

// Those that a restore has made: gone with this, unless they are kept.
class MadeMessageQueues {
 public:
  MadeMessageQueues() = default;
  MadeMessageQueues(const MadeMessageQueues&) = delete;
  MadeMessageQueues& operator=(const MadeMessageQueues&) = delete;
  ~MadeMessageQueues();

  // Those that were in that ipc namespace, with their messages: in the one that will be in its
  // place.
  void make(const RestorePlan& plan, uint64_t space);
  void keep() { made_.clear(); }

 private:
  std::vector<std::string> made_;  // names
};

// When all of them are open: owner and rights of those that were made, which would be in the way
// before; and those without a name lose theirs.
void finish_message_queues(OpeningContext& context, const RestorePlan& plan,
                           const std::vector<Fd>& files);

// Once the process has its descriptors, and nothing else: closing a queue ends its registration.
void register_for_messages(RestoreContext& context, const pb::Process& process, Seed& seed);

}  // namespace snapgdb
