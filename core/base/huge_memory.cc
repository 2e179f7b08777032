#include "core/base/huge_memory.h"

#include <sys/mman.h>

#include <cstring>
#include <memory>

#include "core/base/error.h"
#include "core/base/strings.h"

namespace snapgdb {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

// Mapped with room to spare: mmap(2) aligns to small pages only.
HugeMemory::HugeMemory(size_t size) : map_size_(size + kHugePage), size_(size) {
  map_ = ::mmap(nullptr, map_size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map_ == MAP_FAILED) throw_errno("cannot set {} of memory aside", human_size(size));
  void* aligned = map_;
  size_t room = map_size_;
  data_ = static_cast<std::byte*>(std::align(kHugePage, size, aligned, room));
  ::madvise(data_, size, MADV_HUGEPAGE);  // EINVAL: a kernel without them; small ones do, too
}

HugeMemory::~HugeMemory() {
  ::munmap(map_, map_size_);
}

void HugeMemory::put_in_place() {
  // Before Linux 5.14, every page is touched.
  if (::madvise(data_, size_, MADV_POPULATE_WRITE) != 0) std::memset(data_, 0, size_);
}

}  // namespace snapgdb
