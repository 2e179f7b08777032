#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "core/image/snapshot.h"

namespace snapgdb {

// Reads structures out of one process; nullopt where its memory does not have them. For walking
// along what may be incomplete, or anything.
class ProcessMemory {
 public:
  // As Snapshot::read_memory does; what it throws goes through.
  using Read = std::function<size_t(uint64_t address, std::span<std::byte> out)>;
  explicit ProcessMemory(Read read) : read_(std::move(read)) {}
  // A damaged page is as good as a missing one. Both must outlive this.
  ProcessMemory(const Snapshot& snapshot, const pb::Process& process);

  template <typename Structure>
  std::optional<Structure> read(uint64_t address) const {
    Structure value;
    const auto out = std::as_writable_bytes(std::span(&value, 1));
    if (read_(address, out) != out.size()) return std::nullopt;
    return value;
  }

  // Up to a NUL, the end of what there is, or `limit`.
  std::string text(uint64_t address, size_t limit) const {
    std::string bytes(limit, '\0');
    bytes.resize(read_(address, std::as_writable_bytes(std::span(bytes))));
    return bytes.substr(0, bytes.find('\0'));
  }

 private:
  Read read_;
};

}  // namespace snapgdb
