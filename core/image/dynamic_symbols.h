#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "core/image/process_memory.h"

namespace snapgdb {

// Where an object lies in a process's memory: struct link_map's l_addr and l_ld.
struct ObjectPlace {
  uint64_t load_offset = 0, dynamic = 0;
};

// The address of a symbol that the object exports, looked up in memory as the dynamic linker does
// (DT_GNU_HASH, DT_SYMTAB, DT_STRTAB); nullopt: there is none, or something cannot be read.
std::optional<uint64_t> find_dynamic_symbol(const ProcessMemory& memory, const ObjectPlace& object,
                                            std::string_view name);

}  // namespace snapgdb
