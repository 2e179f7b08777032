#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace snapgdb {

// The framing of an image, version 1. docs/image-format.md describes every byte of it.

using Bytes = std::vector<std::byte>;

inline constexpr std::array<unsigned char, 8> kMagic{0x89, 'S', 'G', 'D', '\r', '\n', 0x1a, '\n'};
inline constexpr uint32_t kFormatVersion = 1;
inline constexpr uint32_t kEndianMark = 0x01020304;

constexpr uint32_t chunk_type(const char (&tag)[5]) {
  uint32_t type = 0;
  for (int i = 3; i >= 0; --i) type = type << 8 | static_cast<unsigned char>(tag[i]);
  return type;
}
std::string chunk_type_name(uint32_t type);

inline constexpr uint32_t kKeysChunk = chunk_type("KEYS");          // the image's key, sealed
inline constexpr uint32_t kProcessChunk = chunk_type("PROC");       // pb::Process
inline constexpr uint32_t kPageChunk = chunk_type("PAGE");          // PagePrefix, then pages
inline constexpr uint32_t kAddressSpaceChunk = chunk_type("ADDR");  // pb::AddressSpace
inline constexpr uint32_t kFileChunk = chunk_type("FILE");          // pb::FileRecord
inline constexpr uint32_t kSnapshotChunk = chunk_type("SNAP");      // pb::SnapshotRecord
inline constexpr uint32_t kIndexChunk = chunk_type("INDX");         // pb::Index
inline constexpr uint32_t kSignatureChunk = chunk_type("SIGN");     // over all chunks before it
inline constexpr uint32_t kTailChunk = chunk_type("TAIL");          // offset of the INDX chunk

enum class Codec : uint8_t { kNone = 0, kZstd = 1 };
// What was done to the payload after the codec.
enum class Filter : uint8_t { kNone = 0, kEncrypted = 1 };

// A reader that does not know a chunk's type skips it, unless this flag is set.
inline constexpr uint16_t kRequiredFlag = 1;

// Limits that keep a hostile image from making us allocate without bound.
inline constexpr uint64_t kMaxPageChunk = uint64_t{16} << 20;
inline constexpr uint64_t kMaxRecordChunk = uint64_t{512} << 20;

struct ImageHeader {
  static constexpr size_t kSize = 32;
  uint64_t image_id = 0;  // random; part of every checksum

  std::array<std::byte, kSize> encode() const;
  // Throws Error: not an image, a newer version, another byte order, damaged.
  static ImageHeader decode(std::span<const std::byte> bytes);
};

struct ChunkHeader {
  static constexpr size_t kSize = 48;
  uint32_t type = 0;
  uint16_t flags = 0;
  Codec codec = Codec::kNone;
  Filter filter = Filter::kNone;
  uint64_t snapshot = 0;
  uint64_t stored_size = 0;
  uint64_t raw_size = 0;
  uint64_t payload_checksum = 0;  // XXH3-64 of the stored bytes

  // `seed` binds the header to its image and to its place in it (chunk_seed).
  std::array<std::byte, kSize> encode(uint64_t seed) const;
  // Throws Error if it is damaged, oversized, or coded in a way unknown here.
  static ChunkHeader decode(std::span<const std::byte> bytes, uint64_t seed);
};

inline uint64_t chunk_seed(uint64_t image_id, uint64_t offset) {
  return image_id + offset;
}

// What stands before the pages of a PAGE chunk.
struct PagePrefix {
  static constexpr size_t kSize = 16;
  uint64_t first_page = 0;
  uint64_t pages = 0;

  bool operator==(const PagePrefix&) const = default;
};

inline constexpr size_t kTailSize = ChunkHeader::kSize + sizeof(uint64_t);

uint64_t checksum(std::span<const std::byte> bytes, uint64_t seed = 0);

// Throws Error if the stored bytes do not fit the header, or the header is of a kind unknown here.
void check_payload(const ChunkHeader& header, std::span<const std::byte> stored);
// Undoes the codec. `coded` is the payload with the filter undone.
Bytes unpack(const ChunkHeader& header, Bytes coded);
Bytes decompress(const ChunkHeader& header, std::span<const std::byte> coded);

// ---- Little-endian fields ----------------------------------------------------------------------

template <typename Integer>
void put(std::span<std::byte> out, size_t offset, Integer value) {
  for (size_t i = 0; i < sizeof value; ++i)
    out[offset + i] = static_cast<std::byte>(static_cast<uint64_t>(value) >> (8 * i));
}

template <typename Integer>
Integer get(std::span<const std::byte> in, size_t offset) {
  uint64_t value = 0;
  for (size_t i = sizeof(Integer); i-- > 0;)
    value = value << 8 | std::to_integer<uint64_t>(in[offset + i]);
  return static_cast<Integer>(value);
}

}  // namespace snapgdb
