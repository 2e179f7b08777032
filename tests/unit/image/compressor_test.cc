#include "core/image/compressor.h"

#include <zstd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>

namespace snapgdb {
namespace {

constexpr size_t kChunk = size_t{1} << 20, kPage = 4096;

Bytes random_bytes(size_t size) {
  Bytes bytes(size);
  std::mt19937_64 random(7);
  std::ranges::generate(bytes, [&] { return static_cast<std::byte>(random()); });
  return bytes;
}

// Words from a short list.
Bytes text(size_t size) {
  Bytes bytes(size);
  for (size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<std::byte>("what a capture reads "[i * i / 5 % 21]);
  return bytes;
}

void check_comes_back(const Bytes& in, Compressor& compressor) {
  Bytes packed(in.size()), out(in.size());
  const auto size = compressor.compress(in, packed);
  REQUIRE(size);
  CHECK(::ZSTD_decompress(out.data(), out.size(), packed.data(), *size) == out.size());
  CHECK((out == in));
}

TEST_CASE("what compresses comes back, whatever went before") {
  Compressor compressor(1);
  const Bytes vain = random_bytes(kChunk);
  Bytes packed(kChunk);
  check_comes_back(text(kChunk), compressor);
  for (int i = 0; i < 3; ++i) {
    CHECK_FALSE(compressor.compress(vain, packed));
    check_comes_back(text(kChunk), compressor);
  }
}

TEST_CASE("after bytes that do not compress, a chunk that does in part is compressed still") {
  Compressor compressor(1);
  Bytes packed(kChunk);
  Bytes half = random_bytes(kChunk);
  REQUIRE_FALSE(compressor.compress(half, packed));
  std::ranges::copy(text(kChunk / 2), half.begin());
  check_comes_back(half, compressor);

  // Pages that differ in a few bytes only.
  Bytes alike = random_bytes(kChunk);
  REQUIRE_FALSE(compressor.compress(random_bytes(kChunk), packed));
  for (size_t at = kPage; at < kChunk; at += kPage)
    std::copy_n(alike.begin() + 64, kPage - 64, alike.begin() + static_cast<ptrdiff_t>(at));
  check_comes_back(alike, compressor);
}

TEST_CASE("a few bytes are compressed whole, also after bytes that do not compress") {
  Compressor compressor(1);
  Bytes packed(kChunk);
  REQUIRE_FALSE(compressor.compress(random_bytes(kChunk), packed));
  check_comes_back(text(200), compressor);
  check_comes_back(text(100'000), compressor);
  CHECK_FALSE(compressor.compress(random_bytes(1), packed));
}

}  // namespace
}  // namespace snapgdb
