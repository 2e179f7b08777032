#pragma once

#include <elf.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/image/dynamic_symbols.h"
#include "core/image/process_memory.h"

namespace snapgdb {

// A shared object as the dynamic linker knows it.
struct LoadedObject {
  uint64_t link_map = 0;     // address of its struct link_map
  uint64_t name_space = 0;   // of dlmopen(3): address of its struct r_debug
  uint64_t load_offset = 0;  // l_addr
  uint64_t dynamic = 0;      // l_ld, which lies in what is mapped of its file
  std::string linker_name;   // l_name: a path that may lead through symbolic links
  bool executable = false;  // that execve(2) was given: the program, or the dynamic linker, if that
                            // was told to run a program (ld.so PROGRAM)

  ObjectPlace place() const { return {load_offset, dynamic}; }
};

// An entry of the auxiliary vector, getauxval(3); 0: there is none of that type.
uint64_t auxiliary_value(std::string_view auxv, uint64_t type);

// The first program header of a type that the executable has, found through the auxiliary vector;
// p_vaddr is its address in the process.
std::optional<Elf64_Phdr> executable_segment(const ProcessMemory& memory, std::string_view auxv,
                                             uint32_t type);

// The address of the executable's DT_DEBUG, where the dynamic linker notes that of its struct
// r_debug; nullopt: the executable has none, or cannot be read.
std::optional<uint64_t> debug_slot(const ProcessMemory& memory, std::string_view auxv);

// The objects of a process, the program first; empty: there is no dynamic linker, or it has not
// come that far.
//
// Walks the dynamic linker's list in a process's memory, from the auxiliary vector through the
// executable's DT_DEBUG; where that is the dynamic linker itself, from its symbol _r_debug. Stops
// at the first thing that cannot be read or makes no sense: the memory may be incomplete, or
// anything.
std::vector<LoadedObject> read_link_map(const ProcessMemory& memory, std::string_view auxv);

}  // namespace snapgdb
