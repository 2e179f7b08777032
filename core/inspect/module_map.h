#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/inspect/elf_file.h"

namespace snapgdb {

// An ELF file as one process has it loaded.
struct Module {
  uint64_t start = 0;  // the addresses from the first mapping to the end of its .bss,
  uint64_t end = 0;    // cut where the next module begins
  uint64_t bias = 0;   // address in memory = address in the file + bias, modulo 2^64
  std::string path;    // as the process knows it, or "[vdso]"
  const pb::FileRecord* file = nullptr;  // nullptr: the vDSO
  ElfFile* elf = nullptr;                // never nullptr
  ElfFile* debug = nullptr;              // its separate debug file, if that is in the image

  bool contains(uint64_t address) const { return address >= start && address < end; }
  uint64_t in_file(uint64_t address) const { return address - bias; }
};

// The modules of one process, from its memory map: program headers say how each file has to lie in
// memory, so that neither the dynamic linker's lists nor the order of the mappings is trusted.
class ModuleMap {
 public:
  // snapshot and files must outlive the map.
  ModuleMap(const Snapshot& snapshot, const pb::Process& process, ElfFiles& files);

  const Module* find(uint64_t address) const;               // nullptr: in none
  std::span<const Module> all() const { return modules_; }  // by address

 private:
  std::vector<Module> modules_;
};

}  // namespace snapgdb
