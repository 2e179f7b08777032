#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "core/image/snapshot.h"
#include "elfconv/core_memory.h"

namespace snapgdb {

// Told how many bytes of how many have been copied; by any thread, but by one at a time.
using CopyProgress = std::function<void(uint64_t done, uint64_t total)>;

// Copies the memory of a process to where its segments lie in the file, by several threads. Zeros
// are left out, to become holes. Returns how much was copied. Throws the first Error any of the
// threads met; `path` names the file in it.
uint64_t copy_content(const Snapshot& snapshot, const pb::Process& process,
                      std::span<const LoadSegment> segments, int fd, const std::string& path,
                      const CopyProgress& progress);

}  // namespace snapgdb
