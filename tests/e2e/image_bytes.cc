#include "tests/e2e/image_bytes.h"

#include <catch2/catch.hpp>

namespace snapgdb::e2e {
namespace {

uint64_t little_endian_64(const std::string& bytes, size_t at) {
  uint64_t value = 0;
  for (size_t i = 8; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes.at(at + i));
  return value;
}

}  // namespace

std::vector<ChunkPlace> chunks_of(const std::string& image) {
  std::vector<ChunkPlace> chunks;
  for (size_t at = kImageHeaderSize; at < image.size(); at = chunks.back().end()) {
    REQUIRE(image.size() - at >= kChunkHeaderSize);
    chunks.push_back({image.substr(at, 4), at, little_endian_64(image, at + 16)});
    REQUIRE(chunks.back().payload <= image.size() - at - kChunkHeaderSize);
  }
  return chunks;
}

}  // namespace snapgdb::e2e
