#pragma once

#include <cstddef>
#include <span>

namespace snapgdb {

// Memory of our own, zeros at first, in huge pages where the kernel has them: one page fault puts
// 2 MiB in place instead of 4 KiB, and random access misses the TLB less often.
class HugeMemory {
 public:
  // Throws SystemError.
  explicit HugeMemory(size_t size);
  ~HugeMemory();
  HugeMemory(const HugeMemory&) = delete;
  HugeMemory& operator=(const HugeMemory&) = delete;

  // Takes all page faults now, so that none comes later.
  void put_in_place();

  std::span<std::byte> bytes() { return {data_, size_}; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  void* map_;
  size_t map_size_;
  std::byte* data_;
  size_t size_;
};

}  // namespace snapgdb
