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
  void expect(uint64_t bytes);
  // What has been added since the last call.
  Counts take_counts() { return std::exchange(counts_, {}); }

 private:
  // 92 bits of a page's hash, and where the page is: 16 bytes. Of 2^28 pages (1 TiB), two that
  // differ are taken for the same with a probability of 2^-44; the hashes are seeded at random, so
  // that no captured program can prepare such a pair.
  struct Known {
    static constexpr int kOrdinalBits = 36;  // 256 TiB of pages; later ones are not remembered
    static constexpr uint64_t kOrdinals = uint64_t{1} << kOrdinalBits;

    uint64_t hash = 0, more_hash_and_next = 0;  // of the ordinal, the next one; 0: nothing is known

    uint64_t next_ordinal() const { return more_hash_and_next % kOrdinals; }
    bool is_of(uint64_t low, uint64_t high) const {
      return hash == low && more_hash_and_next >> kOrdinalBits == high >> kOrdinalBits &&
             next_ordinal() != 0;
    }
  };
  // A cache line. The hash says in which one a page may be known; where that is full, the oldest
  // page makes room, which costs space in the image, nothing else.
  static constexpr size_t kGroup = 4;
  // Memory is bounded whatever the size of the tree.
  static constexpr size_t kFirstSlots = size_t{1} << 15;  // 512 KiB
  static constexpr size_t kMaxSlots = size_t{1} << 20;    // 16 MiB: the last 4 GiB of pages

  void make_table(size_t slots);
  void grow();
  std::span<Known, kGroup> group_of(uint64_t low);
  void put(const Known& one);
  void remember(uint64_t low, uint64_t high, uint64_t ordinal);
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
  uint64_t expected_ = 0;   // pages
  Bytes payload_;           // of full size; prefix_.pages of it are taken
  PagePrefix prefix_;
  Counts counts_;
};

}  // namespace snapgdb
