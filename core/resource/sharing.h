#pragma once

#include <sched.h>

#include <string_view>

#include "core/image/snapshot.h"

namespace snapgdb {

// What processes may have in common (clone(2)): one address space, one table of descriptors. A
// restored one shares with its parent, or not at all; what they share is restored once.
using Shared = uint32_t (pb::Process::*)() const;
inline constexpr Shared kMemory = &pb::Process::address_space;
inline constexpr Shared kDescriptors = &pb::Process::descriptor_table;
inline constexpr Shared kFileSystem = &pb::Process::file_system;

struct SharedKind {
  Shared what;
  uint64_t clone_flag;
  std::string_view name;
};
inline constexpr SharedKind kSharedKinds[] = {
    {kMemory, CLONE_VM, "memory"},
    {kDescriptors, CLONE_FILES, "descriptors"},
    {kFileSystem, CLONE_FS, "directories and umask"},
    {&pb::Process::signal_handlers, CLONE_SIGHAND, "signal actions"},
};

bool shares_with_parent(const Snapshot& snapshot, const pb::Process& process, Shared what);
// Whether no process before it (after it) shares with it, in the order of the snapshot.
bool is_first_to_share(const Snapshot& snapshot, const pb::Process& process, Shared what);
bool is_last_to_share(const Snapshot& snapshot, const pb::Process& process, Shared what);

}  // namespace snapgdb
