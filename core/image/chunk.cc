#include "core/image/chunk.h"

#include <zstd.h>

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/image/libxxhash.h"

namespace snapgdb {
namespace {

[[noreturn]] void bad(std::string why, std::string help = "") {
  throw Error("cannot read the image", std::move(why), std::move(help));
}

bool has_magic(std::span<const std::byte> bytes) {
  return std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) == 0;
}

// The magic's line ends and control-Z are there to be mangled by careless transfers, as PNG's are.
bool looks_mangled(std::span<const std::byte> bytes) {
  return std::memcmp(bytes.data() + 1, kMagic.data() + 1, 3) == 0;
}

}  // namespace

std::string chunk_type_name(uint32_t type) {
  char tag[4];
  std::memcpy(tag, &type, sizeof tag);
  return printable({tag, sizeof tag});
}

uint64_t checksum(std::span<const std::byte> bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

std::array<std::byte, ImageHeader::kSize> ImageHeader::encode() const {
  std::array<std::byte, kSize> bytes{};
  std::memcpy(bytes.data(), kMagic.data(), kMagic.size());
  put(bytes, 8, kFormatVersion);
  put(bytes, 12, kEndianMark);
  put(bytes, 16, image_id);
  put(bytes, 24, checksum(std::span(bytes).first(24)));
  return bytes;
}

ImageHeader ImageHeader::decode(std::span<const std::byte> bytes) {
  if (bytes.size() < kSize) bad("it is not a snapgdb image: it is too short");
  if (!has_magic(bytes)) {
    if (looks_mangled(bytes)) bad("its bytes were changed on the way", "transfer it as binary");
    bad("it is not a snapgdb image");
  }
  const auto version = get<uint32_t>(bytes, 8);
  if (version > kFormatVersion)
    bad(fmt::format("its format is version {}, this snapgdb reads up to {}", version,
                    kFormatVersion),
        "use a newer snapgdb");
  if (get<uint64_t>(bytes, 24) != checksum(bytes.first(24)) || version == 0)
    bad("its header is damaged");
  if (get<uint32_t>(bytes, 12) != kEndianMark) bad("it has another byte order");
  return {get<uint64_t>(bytes, 16)};
}

std::array<std::byte, ChunkHeader::kSize> ChunkHeader::encode(uint64_t seed) const {
  std::array<std::byte, kSize> bytes{};
  put(bytes, 0, type);
  put(bytes, 4, flags);
  put(bytes, 6, static_cast<uint8_t>(codec));
  put(bytes, 7, static_cast<uint8_t>(filter));
  put(bytes, 8, snapshot);
  put(bytes, 16, stored_size);
  put(bytes, 24, raw_size);
  put(bytes, 32, payload_checksum);
  put(bytes, 40, checksum(std::span(bytes).first(40), seed));
  return bytes;
}

ChunkHeader ChunkHeader::decode(std::span<const std::byte> bytes, uint64_t seed) {
  if (bytes.size() < kSize) bad("it ends inside a chunk's header");
  if (get<uint64_t>(bytes, 40) != checksum(bytes.first(40), seed))
    bad("a chunk's header is damaged");
  ChunkHeader header;
  header.type = get<uint32_t>(bytes, 0);
  header.flags = get<uint16_t>(bytes, 4);
  header.codec = Codec{get<uint8_t>(bytes, 6)};
  header.filter = Filter{get<uint8_t>(bytes, 7)};
  header.snapshot = get<uint64_t>(bytes, 8);
  header.stored_size = get<uint64_t>(bytes, 16);
  header.raw_size = get<uint64_t>(bytes, 24);
  header.payload_checksum = get<uint64_t>(bytes, 32);
  return header;
}

void check_payload(const ChunkHeader& header, std::span<const std::byte> stored) {
  const std::string name = chunk_type_name(header.type);
  const uint64_t limit = header.type == kPageChunk ? kMaxPageChunk : kMaxRecordChunk;
  if (checksum(stored) != header.payload_checksum) bad(fmt::format("a {} chunk is damaged", name));
  if (header.filter > Filter::kEncrypted || header.codec > Codec::kZstd)
    bad(fmt::format("a {} chunk is coded in a way this snapgdb does not know", name),
        "use a newer snapgdb");
  if (header.raw_size > limit) bad(fmt::format("a {} chunk is too large", name));
}

Bytes unpack(const ChunkHeader& header, Bytes coded) {
  if (header.codec != Codec::kNone) return decompress(header, coded);
  if (coded.size() != header.raw_size)
    bad(fmt::format("a {} chunk has a wrong size", chunk_type_name(header.type)));
  return coded;
}

Bytes decompress(const ChunkHeader& header, std::span<const std::byte> coded) {
  Bytes raw(header.raw_size);
  const size_t n = ZSTD_decompress(raw.data(), raw.size(), coded.data(), coded.size());
  if (ZSTD_isError(n) || n != raw.size())
    bad(fmt::format("a {} chunk does not decompress: {}", chunk_type_name(header.type),
                    ZSTD_isError(n) ? ZSTD_getErrorName(n) : "it is too short"));
  return raw;
}

}  // namespace snapgdb
