#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "core/base/huge_memory.h"
#include "core/base/progress.h"
#include "core/image/extents.h"
#include "core/image/image_writer.h"

namespace snapgdb {

// Turns page contents into extents and PAGE chunks: zero pages get no bytes, a page equal to one
// stored before (in any process, file or snapshot of this image) refers to it.
class PageWriter {
 public:
  struct Counts {
    uint64_t stored = 0, shared = 0, zero = 0;
  };

  // `progress`, or nullptr: counts what is taken in.
  explicit PageWriter(ImageWriter& out, Progress* progress = nullptr);

  // Appends whole pages, which lie at `address`, to `extents`.
  void add(Extents& extents, uint64_t address, std::span<const std::byte> pages);
  // The same, with the pages read straight into the chunk. `read` fills in what it can from the
  // start of `out` and returns the number of bytes. Returns how many bytes were added: whole pages,
  // up to the first that could not be read.
  using Read = std::function<size_t(uint64_t address, std::span<std::byte> out)>;
  uint64_t copy(Extents& extents, uint64_t address, uint64_t size, const Read& read);
  // Ends the chunk begun, so that one chunk holds pages of one address space or file.
  void flush();
  // So much will be added.
  void expect(uint64_t bytes) { count_expected(progress_, bytes); }
  // What has been added since the last call.
  Counts take_counts() { return std::exchange(counts_, {}); }

 private:
  // A direct-mapped table of page hashes: bounded memory whatever the size of the tree; a page
  // pushed out of its slot costs space in the image, nothing else. The hashes are seeded at
  // random, so that no captured program can prepare two pages that collide.
  struct Known {
    uint64_t low = 0, high = 0, ordinal_plus_one = 0;
  };
  static constexpr size_t kMaxSlots = size_t{1} << 20;  // 24 MiB: the last 4 GiB of distinct pages
  // To clear the full table takes milliseconds: a good part of a small capture.
  static constexpr size_t kFirstSlots = kMaxSlots / 8;
  // So many slots for a page: more than half a table would push a fifth of them out.
  static constexpr size_t kSparse = 16;

  void make_table(size_t slots);
  void grow();
  Known& place_of(uint64_t low) { return known_[low % known_.size()]; }
  void begin_chunk();
  // Takes over the pages that were put into the chunk behind those it has.
  void settle(Extents& extents, uint64_t address, uint64_t pages);
  std::span<std::byte> slot(uint64_t page);

  ImageWriter& out_;
  Progress* progress_;
  uint64_t seed_;
  std::optional<HugeMemory> known_memory_;
  std::span<Known> known_;  // all of it
  uint64_t taken_ = 0;      // pages put into it
  Bytes payload_;           // of full size; prefix_.pages of it are taken
  PagePrefix prefix_;
  Counts counts_;
};

}  // namespace snapgdb
