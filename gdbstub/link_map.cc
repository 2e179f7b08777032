#include "gdbstub/link_map.h"

namespace snapgdb::gdbstub {

ProcessMemory memory_of(const Target& target, Pid pid) {
  return ProcessMemory([&target, pid](uint64_t address, std::span<std::byte> out) {
    return target.read_memory(pid, address, out);
  });
}

std::optional<Elf64_Phdr> executable_segment(const Target& target, Pid pid, uint32_t type) {
  return executable_segment(memory_of(target, pid), target.auxv(pid).value_or(""), type);
}

std::vector<LoadedObject> read_link_map(const Target& target, Pid pid) {
  return read_link_map(memory_of(target, pid), target.auxv(pid).value_or(""));
}

std::string mapped_name(const Target& target, Pid pid, const LoadedObject& object) {
  const auto mapping = target.mapping_at_or_after(pid, object.dynamic);
  const bool is_file =
      mapping && mapping->start <= object.dynamic && mapping->name.starts_with('/');
  return is_file ? mapping->name : "";
}

}  // namespace snapgdb::gdbstub
