#pragma once

#include "gdbstub/running_target.h"

namespace snapgdb::gdbstub {

// Restores the tree of a snapshot, isolated, under ptrace of the calling thread. It ends with the
// target, and with this process.
std::unique_ptr<RunningTarget> launch(const SnapshotTarget& from, std::span<const Pid> attached);

// The same, but what of its standard streams came from outside is now ours, and nothing of its
// output or input goes through the debugger.
std::unique_ptr<RunningTarget> launch_on_our_streams(const SnapshotTarget& from,
                                                     std::span<const Pid> attached);

}  // namespace snapgdb::gdbstub
