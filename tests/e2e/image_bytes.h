#pragma once

#include <cstdint>
#include <string>
#include <vector>

// An image's framing, read from docs/image-format.md and not by snapgdb's own reader, so that a
// test can damage it at chosen places.
namespace snapgdb::e2e {

inline constexpr size_t kImageHeaderSize = 32;
inline constexpr size_t kVersionOffset = 8;
inline constexpr size_t kChunkHeaderSize = 48;

struct ChunkPlace {
  std::string type;    // "PROC", "PAGE", …
  size_t offset = 0;   // of its header in the image
  size_t payload = 0;  // stored bytes after the header
  size_t end() const { return offset + kChunkHeaderSize + payload; }
};

// All chunks in order. Fails the test if they do not fill the image exactly.
std::vector<ChunkPlace> chunks_of(const std::string& image);

}  // namespace snapgdb::e2e
