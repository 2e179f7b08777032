#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/image/link_map.h"
#include "gdbstub/target.h"

// What the dynamic linker has loaded into a process of a target.
namespace snapgdb::gdbstub {

ProcessMemory memory_of(const Target& target, Pid pid);  // the target must outlive it

std::optional<Elf64_Phdr> executable_segment(const Target& target, Pid pid, uint32_t type);
std::vector<LoadedObject> read_link_map(const Target& target, Pid pid);
// The file that is really mapped there; "" if that is not known.
std::string mapped_name(const Target& target, Pid pid, const LoadedObject& object);

}  // namespace snapgdb::gdbstub
