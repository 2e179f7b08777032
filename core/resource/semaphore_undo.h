#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "core/image/snapshot.h"
#include "core/resource/resource.h"
#include "core/resource/restorer.h"

namespace snapgdb {

// Those of one ipc namespace, with their records.
using InOneSpace = std::vector<std::pair<const FrozenProcess*, pb::Process*>>;
// What the kernel undoes of their changes of a set of System V semaphores there as they end
// (SEM_UNDO of semop(2)), into their records. Precondition: the calling thread traces them. `read`:
// its values, of which `set` has the latest. Throws Error.
void capture_semaphore_undo(CaptureContext& context, const InOneSpace& processes,
                            const pb::SemaphoreSet& set,
                            const std::function<std::vector<uint16_t>()>& read);

// Whether processes of the snapshot in that ipc namespace would undo something of the set.
bool is_undone_in_part(const Snapshot& snapshot, uint64_t space, const pb::SemaphoreSet& set);
// The values that it has when they have ended.
std::vector<uint16_t> values_when_undone(const Snapshot& snapshot, uint64_t space,
                                         const pb::SemaphoreSet& set);

}  // namespace snapgdb
