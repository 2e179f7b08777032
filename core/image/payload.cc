#include "core/image/payload.h"

#include <sys/mman.h>

#include "core/base/error.h"
#include "core/image/extents.h"

namespace snapgdb {

// MADV_POPULATE_READ (Linux 5.14) puts the pages in place in one go, and says which cannot be read
// where a touch would be a SIGBUS.
Payload::Payload(const Fd& file, uint64_t offset, size_t size, std::string_view what) {
  const uint64_t start = page_down(offset);
  map_size_ = page_up(offset + size) - start;
  void* map =
      ::mmap(nullptr, map_size_, PROT_READ, MAP_SHARED, file.get(), static_cast<off_t>(start));
  if (map == MAP_FAILED) throw_errno("cannot read {}", what);
  if (::madvise(map, map_size_, MADV_POPULATE_READ) != 0 && errno != EINVAL) {
    const int error = errno == EFAULT ? EIO : errno;
    ::munmap(map, map_size_);
    throw SystemError(fmt::format("cannot read {}", what), error);
  }
  map_ = map;
  mapped_ = {static_cast<const std::byte*>(map) + (offset - start), size};
}

Payload::~Payload() {
  if (map_) ::munmap(map_, map_size_);
}

}  // namespace snapgdb
