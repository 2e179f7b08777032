#pragma once

#include <string>

#include "core/image/snapshot.h"
#include "elfconv/core_memory.h"

namespace snapgdb {

// The descriptor of NT_FILE, which names the file behind each mapping; "" if there is none.
std::string file_note(const pb::Process& process, const CoreMemory& memory);

}  // namespace snapgdb
