#include "core/image/page_writer.h"

#include <algorithm>
#include <array>
#include <bit>
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

// To clear memory takes time: a table is no larger than it has to be, and is made at once for what
// is expected. Half full: then one page in thirty has been pushed out.
void PageWriter::grow() {
  const uint64_t slots = std::bit_ceil(2 * std::max(2 * taken_, expected_));
  const std::vector<Known> before(known_.begin(), known_.end());
  make_table(std::min<uint64_t>(slots, kMaxSlots));
  for (const Known& one : before)
    if (one.next_ordinal()) put(one);
}

void PageWriter::put(const Known& one) {
  *std::ranges::min_element(group_of(one.hash), {}, &Known::next_ordinal) = one;
}

std::span<PageWriter::Known, PageWriter::kGroup> PageWriter::group_of(uint64_t low) {
  return std::span<Known, kGroup>(&known_[low * kGroup % known_.size()], kGroup);
}

void PageWriter::remember(uint64_t low, uint64_t high, uint64_t ordinal) {
  if (ordinal + 1 >= Known::kOrdinals) return;
  put({low, high >> Known::kOrdinalBits << Known::kOrdinalBits | (ordinal + 1)});
  ++taken_;
}

void PageWriter::expect(uint64_t bytes) {
  count_expected(progress_, bytes);
  expected_ += bytes / kPageSize;
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
    __builtin_prefetch(group_of(hashes[i]->low64).data(), 1);  // hardly ever in the cache
  }
  for (uint64_t i = 0; i < pages; ++i, address += kPageSize) {
    if (!hashes[i]) {
      ++counts_.zero;
      extents.append({address, kPageSize, pb::SOURCE_ZERO, 0, 0});
      continue;
    }
    const uint64_t low = hashes[i]->low64, high = hashes[i]->high64;
    const auto group = group_of(low);
    const auto known =
        std::ranges::find_if(group, [&](const Known& one) { return one.is_of(low, high); });
    uint64_t ordinal;
    if (known != group.end()) {
      ordinal = known->next_ordinal() - 1;
      ++counts_.shared;
    } else {
      if (prefix_.pages != first + i)  // some before it were dropped
        std::memcpy(slot(prefix_.pages).data(), slot(first + i).data(), kPageSize);
      ordinal = prefix_.first_page + prefix_.pages++;
      remember(low, high, ordinal);
      ++counts_.stored;
    }
    extents.append({address, kPageSize, pb::SOURCE_STORED, ordinal, 0});
  }
  if (taken_ > known_.size() / 2 && known_.size() < kMaxSlots) grow();
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
