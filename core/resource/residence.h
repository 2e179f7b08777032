#pragma once

#include <vector>

#include "core/resource/memory.h"

namespace snapgdb {

// Settles what the plan has as kUntold: the process itself is asked which of these pages there are
// (mincore(2)), as an ordinary user cannot look behind a mapping. By the tracer, while the tree is
// stopped.
void ask_what_is_resident(std::vector<MemoryRun>& plan, const FrozenProcess& frozen,
                          CaptureContext& context);

}  // namespace snapgdb
