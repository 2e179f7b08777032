#include "core/image/page_writer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <random>

#include "core/image/libxxhash.h"

namespace snapgdb {
namespace {

// 1 MiB: large enough for zstd to find its matches, small enough for reading at random.
constexpr uint64_t kPagesPerChunk = 256;
// 128 KiB are read at a time: what was just read is still in the cache when it is hashed.
constexpr uint64_t kPagesPerPiece = 32;

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

PageWriter::PageWriter(ImageWriter& out, Progress* progress) : out_(out), progress_(progress) {
  std::random_device device;
  seed_ = uint64_t{device()} << 32 | device();
  make_table(kFirstSlots);
}

// In place: a page fault that reads first takes another one to write.
void PageWriter::make_table(size_t slots) {
  HugeMemory& memory = known_memory_.emplace(slots * sizeof(Known));
  memory.put_in_place();
  known_ = {reinterpret_cast<Known*>(memory.bytes().data()), slots};
}

void PageWriter::grow() {
  const std::vector<Known> before(known_.begin(), known_.end());
  make_table(kMaxSlots);
  for (const Known& one : before)
    if (one.ordinal_plus_one) place_of(one.low) = one;
}

void PageWriter::add(Extents& extents, uint64_t address, std::span<const std::byte> pages) {
  copy(extents, address, pages.size(), [&](uint64_t at, std::span<std::byte> out) {
    std::memcpy(out.data(), pages.data() + (at - address), out.size());
    return out.size();
  });
}

uint64_t PageWriter::copy(Extents& extents, uint64_t address, uint64_t size, const Read& read) {
  uint64_t done = 0;
  while (done < size) {
    begin_chunk();
    const uint64_t room = std::min(kPagesPerChunk - prefix_.pages, kPagesPerPiece) * kPageSize;
    const uint64_t want = std::min(size - done, room);
    const uint64_t got = page_down(read(address + done, slot(prefix_.pages).first(want)));
    settle(extents, address + done, got / kPageSize);
    count_done(progress_, got);
    done += got;
    if (got < want) break;
  }
  return done;
}

void PageWriter::begin_chunk() {
  if (!payload_.empty()) return;
  payload_ = out_.spare_buffer(PagePrefix::kSize + kPagesPerChunk * kPageSize);
  prefix_ = {out_.take_page_ordinals(kPagesPerChunk), 0};
}

// From that page on to the end of the chunk.
std::span<std::byte> PageWriter::slot(uint64_t page) {
  return std::span(payload_).subspan(PagePrefix::kSize + page * kPageSize);
}

void PageWriter::settle(Extents& extents, uint64_t address, uint64_t pages) {
  std::array<std::optional<XXH128_hash_t>, kPagesPerPiece> hashes;  // nullopt: a page of zeros
  const uint64_t first = prefix_.pages;
  for (uint64_t i = 0; i < pages; ++i) {
    const auto page = slot(first + i).first(kPageSize);
    if (is_zero(page)) continue;
    hashes[i] = XXH3_128bits_withSeed(page.data(), page.size(), seed_);
    __builtin_prefetch(&place_of(hashes[i]->low64), 1);  // hardly ever in the cache
  }
  for (uint64_t i = 0; i < pages; ++i, address += kPageSize) {
    if (!hashes[i]) {
      ++counts_.zero;
      extents.append({address, kPageSize, pb::SOURCE_ZERO, 0, 0});
      continue;
    }
    Known& known = place_of(hashes[i]->low64);
    uint64_t ordinal = known.ordinal_plus_one - 1;
    if (known.ordinal_plus_one && known.low == hashes[i]->low64 &&
        known.high == hashes[i]->high64) {
      ++counts_.shared;
    } else {
      if (prefix_.pages != first + i)  // some before it were dropped
        std::memcpy(slot(prefix_.pages).data(), slot(first + i).data(), kPageSize);
      ordinal = prefix_.first_page + prefix_.pages++;
      known = {hashes[i]->low64, hashes[i]->high64, ordinal + 1};
      ++counts_.stored;
      ++taken_;
    }
    extents.append({address, kPageSize, pb::SOURCE_STORED, ordinal, 0});
  }
  if (taken_ > kFirstSlots / kSparse && known_.size() < kMaxSlots) grow();
  if (prefix_.pages == kPagesPerChunk) flush();
}

void PageWriter::flush() {
  if (payload_.empty()) return;
  Bytes payload = std::exchange(payload_, {});
  if (prefix_.pages == 0) return;
  payload.resize(PagePrefix::kSize + prefix_.pages * kPageSize);
  out_.add_pages(prefix_, std::move(payload));
}

}  // namespace snapgdb
