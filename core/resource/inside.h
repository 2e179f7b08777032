#pragma once

#include "core/image/snapshot.pb.h"
#include "core/linux/detour.h"
#include "core/linux/visitor.h"

namespace snapgdb {

// What the kernel tells only to a process or a task itself. Each asks from inside: `host` is stopped,
// and comes back to where it was.

// Signal actions, timers with the time left, PR_GET_CHILD_SUBREAPER. Preconditions as for Visitor.
void ask_process(Tracee& host, const Detour::Place& place, const ProcDirectory& proc,
                 pb::Process& process);
inline constexpr size_t kAskProcessScratch = Visitor::kScratch;

// Alternate stack, set_tid_address(2), and of a leader PR_GET_PDEATHSIG.
void ask_thread(Tracee& task, const Detour::Place& place, bool is_leader, pb::Thread& thread);
inline constexpr size_t kAskThreadScratch = 64;

}  // namespace snapgdb
