#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/base/progress.h"
#include "core/image/snapshot.h"
#include "elfconv/core_memory.h"

namespace snapgdb {

// Copies the memory of a process to where its segments lie in the file, by several threads. Zeros
// are left out, to become holes. Returns how much was copied, which `progress` (or nullptr) counts.
// Throws the first Error any of the threads met; `path` names the file in it.
uint64_t copy_content(const Snapshot& snapshot, const pb::Process& process,
                      std::span<const LoadSegment> segments, int fd, const std::string& path,
                      Progress* progress);

}  // namespace snapgdb
