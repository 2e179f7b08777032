#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>

namespace snapgdb::gdbstub {

// Pages a debugger has written to, on top of memory that never changes. One for each address space.
class MemoryOverlay {
 public:
  // Reads from what lies below; returns how much there is.
  using ReadBelow = std::function<size_t(uint64_t address, std::span<std::byte> out)>;

  size_t read(uint64_t address, std::span<std::byte> out, const ReadBelow& below) const;
  // All or (false) nothing: memory that cannot be read cannot be changed either.
  bool write(uint64_t address, std::span<const std::byte> bytes, const ReadBelow& below);

  // Pages of zeros where nothing lies below. Preconditions: whole pages.
  void add(uint64_t address, uint64_t size);
  void drop(uint64_t address, uint64_t size);

  // Changed pages by their address; for a target that carries the changes into a process.
  const std::map<uint64_t, std::string>& pages() const { return pages_; }

 private:
  std::map<uint64_t, std::string> pages_;
};

}  // namespace snapgdb::gdbstub
