#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/image/snapshot.pb.h"

namespace snapgdb {

inline constexpr uint64_t kPageSize = 4096;  // x86-64; other page sizes are multiples of it

inline uint64_t page_down(uint64_t address) {
  return address & ~(kPageSize - 1);
}
inline uint64_t page_up(uint64_t size) {
  return (size + kPageSize - 1) & ~(kPageSize - 1);
}

// Who keeps memory from everybody, so that nothing is lost although it is not in the image.
enum class KeptBy : uint64_t {
  kNobody = 0,  // it is lost
  kKernel = 1,  // devices, guard pages, what lies beyond the end of a file
  kProgram = 2  // by its own wish: MADV_DONTDUMP, memfd_secret(2)
};

// A run of pages with one origin. Addresses (or file offsets) in bytes, page-aligned.
struct Extent {
  uint64_t start = 0;
  uint64_t size = 0;
  pb::Source source = pb::SOURCE_ZERO;
  uint64_t where = 0;  // STORED: page ordinal; FILE: byte offset; MISSING: KeptBy
  uint32_t what = 0;   // FILE: FileRecord id; MISSING: index of the reason

  uint64_t end() const { return start + size; }
};

// What lies behind an address space or a file: extents in ascending order, none overlapping.
class Extents {
 public:
  // Appends behind the last extent, merging with it where the two are one run.
  // Precondition: extent.start >= end of the last one.
  void append(const Extent& extent);
  void append_missing(uint64_t start, uint64_t size, std::string_view reason,
                      KeptBy kept_by = KeptBy::kNobody);
  // Throws Error if `later` does not begin behind the end of these.
  void append_all(const Extents& later);

  // The extent that holds `address`, or nullptr.
  const Extent* find(uint64_t address) const;
  // Those that touch [start, end).
  std::span<const Extent> overlapping(uint64_t start, uint64_t end) const;

  std::span<const Extent> all() const { return extents_; }
  const std::string& reason(const Extent& missing) const { return reasons_.at(missing.what); }
  // Of an image that knows more of them, anything but nobody is the kernel.
  static KeptBy kept_by(const Extent& missing) {
    return missing.where <= static_cast<uint64_t>(KeptBy::kProgram) ? KeptBy{missing.where}
                                                                    : KeptBy::kKernel;
  }
  static bool refused(const Extent& missing) { return kept_by(missing) != KeptBy::kNobody; }
  uint64_t end() const { return extents_.empty() ? 0 : extents_.back().end(); }

  // `count` runs from the `first` on.
  pb::ExtentMap to_record(size_t first = 0, size_t count = SIZE_MAX) const;
  // Throws Error if the record breaks the rules above (columns of different length, overflow,
  // a reason that is not there).
  static Extents from_record(const pb::ExtentMap& record);

 private:
  std::vector<Extent> extents_;
  std::vector<std::string> reasons_;
  std::map<std::string, uint32_t, std::less<>> index_of_;  // of each of them, the first if equal
};

}  // namespace snapgdb
