#pragma once

#include <string>
#include <vector>

#include "core/image/snapshot.h"
#include "elfconv/core_content.h"

namespace snapgdb {

struct CoreOptions {
  // Look for pages that a damaged image has lost, and leave them out of the core.
  bool salvage = false;
  Progress* progress = nullptr;  // counts what is written of memory
};

struct WrittenCore {
  uint64_t size = 0;  // of the file, holes included
  uint64_t data = 0;  // bytes written: the rest are holes
  // What the core lacks, a line each: memory by mapping and reason, then the rest.
  std::vector<std::string> missing;
};

// Why no core can be made of a process ("" if one can): it has exited, or has no registers.
std::string why_no_core(const Snapshot& snapshot, const pb::Process& process);

// Writes the ELF core of one process. The file appears whole, with mode 0600, or not at all.
// Precondition: why_no_core() is "".
WrittenCore write_core(const Snapshot& snapshot, const pb::Process& process,
                       const std::string& path, const CoreOptions& options = {});

}  // namespace snapgdb
