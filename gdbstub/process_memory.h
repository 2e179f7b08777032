#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>

#include "gdbstub/target.h"

namespace snapgdb::gdbstub {

// Reads structures out of one process; nullopt where its memory does not have them. For walking
// along what may be incomplete, or anything.
class ProcessMemory {
 public:
  ProcessMemory(const Target& target, Pid pid) : target_(target), pid_(pid) {}

  template <typename Structure>
  std::optional<Structure> read(uint64_t address) const {
    Structure value;
    const auto out = std::as_writable_bytes(std::span(&value, 1));
    if (target_.read_memory(pid_, address, out) != out.size()) return std::nullopt;
    return value;
  }

  // Up to a NUL, the end of what there is, or `limit`.
  std::string text(uint64_t address, size_t limit) const {
    std::string bytes(limit, '\0');
    bytes.resize(target_.read_memory(pid_, address, std::as_writable_bytes(std::span(bytes))));
    return bytes.substr(0, bytes.find('\0'));
  }

  // The file mapped at an address, or "".
  std::string file_at(uint64_t address) const {
    const auto mapping = target_.mapping_at_or_after(pid_, address);
    const bool is_file = mapping && mapping->start <= address && mapping->name.starts_with('/');
    return is_file ? mapping->name : "";
  }

 private:
  const Target& target_;
  Pid pid_;
};

}  // namespace snapgdb::gdbstub
