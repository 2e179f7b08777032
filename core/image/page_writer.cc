#include "core/image/page_writer.h"

#include <xxhash.h>

#include <cstring>
#include <random>

namespace snapgdb {
namespace {

// 1 MiB: large enough for zstd to find its matches, small enough for reading at random.
constexpr uint64_t kPagesPerChunk = 256;

bool is_zero(std::span<const std::byte> page) {
  constexpr size_t kStep = 64;  // one cache line between two looks, so that most pages end early
  for (size_t i = 0; i < page.size(); i += kStep) {
    uint64_t words[kStep / 8], any = 0;
    std::memcpy(words, page.data() + i, kStep);
    for (const uint64_t word : words) any |= word;
    if (any) return false;
  }
  return true;
}

}  // namespace

PageWriter::PageWriter(ImageWriter& out) : out_(out), known_(kSlots) {
  std::random_device device;
  seed_ = uint64_t{device()} << 32 | device();
}

void PageWriter::add(Extents& extents, uint64_t address, std::span<const std::byte> pages) {
  for (; !pages.empty(); pages = pages.subspan(kPageSize), address += kPageSize) {
    const auto page = pages.first(kPageSize);
    if (is_zero(page)) {
      ++counts_.zero;
      extents.append({address, kPageSize, pb::SOURCE_ZERO, 0, 0});
    } else {
      extents.append({address, kPageSize, pb::SOURCE_STORED, store(page), 0});
    }
  }
}

uint64_t PageWriter::store(std::span<const std::byte> page) {
  const XXH128_hash_t hash = XXH3_128bits_withSeed(page.data(), page.size(), seed_);
  Known& slot = known_[hash.low64 % kSlots];
  if (slot.ordinal_plus_one && slot.low == hash.low64 && slot.high == hash.high64) {
    ++counts_.shared;
    return slot.ordinal_plus_one - 1;
  }
  if (payload_.empty()) {
    payload_.reserve(PagePrefix::kSize + kPagesPerChunk * kPageSize);
    payload_.resize(PagePrefix::kSize);
    prefix_ = {out_.take_page_ordinals(kPagesPerChunk), 0};
  }
  payload_.insert(payload_.end(), page.begin(), page.end());
  const uint64_t ordinal = prefix_.first_page + prefix_.pages++;
  slot = {hash.low64, hash.high64, ordinal + 1};
  ++counts_.stored;
  if (prefix_.pages == kPagesPerChunk) flush();
  return ordinal;
}

void PageWriter::flush() {
  if (payload_.empty()) return;
  out_.add_pages(prefix_, std::exchange(payload_, {}));
}

}  // namespace snapgdb
