#pragma once

#include <memory>
#include <vector>

#include "core/linux/system_v.h"
#include "core/resource/resource.h"
#include "core/resource/restorer.h"

namespace snapgdb {

// The System V objects of the stopped tree, into the record: all of an ipc namespace of its own;
// of ours, those that the kernel connects with it.
void capture_system_v(CaptureContext& context, std::vector<pb::Process>& processes,
                      pb::SnapshotRecord& record);

// What becomes of them, and what is in the way. Before the mappings are planned. `without`: they
// are left out.
void plan_system_v(const Snapshot& snapshot, bool without, RestorePlan& plan);

// Line by line.
std::string describe(const SystemVPlan& plan);

// How much room it takes to attach what shall not be there as a whole.
uint64_t room_to_attach(const Snapshot& snapshot, const RestorePlan& plan);

// Those that a restore has made in an ipc namespace: gone with this, unless they are kept.
class MadeSystemV {
 public:
  MadeSystemV() = default;
  MadeSystemV(const MadeSystemV&) = delete;
  MadeSystemV& operator=(const MadeSystemV&) = delete;
  ~MadeSystemV();

  // Those that were in that ipc namespace: in the one that will be in its place, by who has rights
  // there.
  void make(const Snapshot& snapshot, const RestorePlan& plan, uint64_t space);
  void keep() { made_.clear(); }

 private:
  struct Made {
    IpcKind kind;
    int id;
  };
  std::vector<Made> made_;
};

// Whether the mapping of that process is an attachment to a segment that is there again.
bool is_attached(const RestorePlan& plan, const pb::Process& process, const pb::Vma& vma);
// All those of the process: before anything else is mapped. It is in the ipc namespace that it was
// in, and comes back there.
void attach_segments(const RestoreContext& context, const pb::Process& process, Seed& seed);
// Of segments that were removed while somebody had them, once all have them again: by seeds that
// are in the namespace, and have all rights still.
void remove_segments_again(const RestoreContext& context);

}  // namespace snapgdb
