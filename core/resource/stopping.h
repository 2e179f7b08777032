#pragma once

#include "core/image/snapshot.h"

namespace snapgdb {

// The signal that brings a process to stop that job control had stopped; 0: it was not.
int signal_to_stop(const Snapshot& snapshot, const pb::Process& process);

}  // namespace snapgdb
