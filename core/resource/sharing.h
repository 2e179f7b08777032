#pragma once

#include "core/image/snapshot.h"

namespace snapgdb {

// Processes that have one address space, or one table of descriptors, with each other. A restored
// one shares with its parent, or not at all; what they share is restored once.
using Shared = uint32_t (pb::Process::*)() const;
inline constexpr Shared kMemory = &pb::Process::address_space;
inline constexpr Shared kDescriptors = &pb::Process::descriptor_table;

bool shares_with_parent(const Snapshot& snapshot, const pb::Process& process, Shared what);
// Whether no process before it (after it) shares with it, in the order of the snapshot.
bool is_first_to_share(const Snapshot& snapshot, const pb::Process& process, Shared what);
bool is_last_to_share(const Snapshot& snapshot, const pb::Process& process, Shared what);

}  // namespace snapgdb
