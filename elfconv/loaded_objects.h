#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/image/snapshot.h"

namespace snapgdb {

// A shared object by the name under which the dynamic linker loaded it, which may lead through
// symbolic links: debuggers ask for that one.
struct LoadedObject {
  std::string name;
  uint32_t file = 0;  // FileRecord.id of what is mapped there
};

// Walks the dynamic linker's list (<link.h>, struct r_debug and link_map) in the memory of a
// process. Stops at the first thing that is missing or makes no sense; never throws for it.
std::vector<LoadedObject> loaded_objects(const Snapshot& snapshot, const pb::Process& process);

}  // namespace snapgdb
