#pragma once

#include <string>
#include <vector>

#include "core/image/snapshot.h"
#include "elfconv/core_memory.h"

namespace snapgdb {

// Threads of a process that have registers, the one a debugger should show first in front: the
// snapshot's focus, else one with a signal, else the leader. The others keep their order.
std::vector<const pb::Thread*> threads_to_show(const Snapshot& snapshot,
                                               const pb::Process& process);

struct CoreNotes {
  std::string bytes;                 // the whole PT_NOTE
  std::vector<std::string> missing;  // what a core should say and this one cannot
};

// Precondition: threads_to_show() is not empty.
CoreNotes build_notes(const Snapshot& snapshot, const pb::Process& process,
                      const CoreMemory& memory);

}  // namespace snapgdb
