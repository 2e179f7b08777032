#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "core/image/chunk.h"

// For tests and fuzzers that change images, knowing the format as well as we do.
namespace snapgdb::test {

// Calls `visit` with the offset of every chunk whose header and payload lie in the image.
inline void for_each_chunk(std::span<std::byte> image,
                           const std::function<void(size_t offset, size_t stored)>& visit) {
  for (size_t at = ImageHeader::kSize; at + ChunkHeader::kSize <= image.size();) {
    const auto stored = get<uint64_t>(image, at + 16);
    if (stored > image.size() - at - ChunkHeader::kSize) return;
    visit(at, stored);
    at += ChunkHeader::kSize + stored;
  }
}

// Puts the checksums right after a change. They find accidents only, and would keep a test that
// changes what it likes, or a fuzzer, from getting anywhere.
inline void mend_checksums(std::span<std::byte> image) {
  if (image.size() < ImageHeader::kSize) return;
  const auto id = get<uint64_t>(image, 16);
  put(image, 24, checksum(image.first(24)));
  for_each_chunk(image, [&](size_t at, size_t stored) {
    const auto header = image.subspan(at, ChunkHeader::kSize);
    put(header, 32, checksum(image.subspan(at + ChunkHeader::kSize, stored)));
    put(header, 40, checksum(header.first(40), chunk_seed(id, at)));
  });
}

}  // namespace snapgdb::test
