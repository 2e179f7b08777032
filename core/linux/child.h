#pragma once

#include <sys/types.h>

#include <cstdint>

namespace snapgdb {

// struct clone_args of clone3(2), as far as it is needed.
struct CloneArguments {
  uint64_t flags = 0, pidfd = 0, child_tid = 0, parent_tid = 0, exit_signal = 0, stack = 0,
           stack_size = 0, tls = 0, set_tid = 0, set_tid_size = 0;
};
// As fork(2) returns; without what the C library does at a fork.
pid_t clone3(const CloneArguments& arguments);

// Waits for a child to end, or to stop if we trace it, whatever signals come meanwhile. Returns
// what wait(2) tells; -1 with errno: it is not our child.
int wait_for(pid_t child);

}  // namespace snapgdb
