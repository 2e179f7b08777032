#pragma once

#include <string>

#include "core/image/snapshot.h"
#include "elfconv/core_memory.h"

namespace snapgdb {

// The descriptor of NT_FILE, which names the files behind mappings; "" if there is none to name.
std::string file_note(const Snapshot& snapshot, const pb::Process& process,
                      const CoreMemory& memory);

}  // namespace snapgdb
