#pragma once

#include <sodium/crypto_generichash.h>

#include <array>
#include <cstdint>
#include <span>

#include "core/image/chunk.h"
#include "core/image/keys.h"

namespace snapgdb {

// What a signature stands for: every byte of an image so far, chunk after chunk.
class ImageHash {
 public:
  using Digest = std::array<std::byte, 32>;  // BLAKE2b-256

  explicit ImageHash(const ImageHeader& image);
  static Digest of_chunk(std::span<const std::byte, ChunkHeader::kSize> header,
                         std::span<const std::byte> stored);
  // Chunks are added in the order of the file, none left out.
  void add(const Digest& chunk);

  // The payload of a SIGN chunk behind what was added.
  Bytes sign(const SecretKey& signer) const;
  // The signer. Throws Error if the payload is no signature of what was added.
  PublicKey check(std::span<const std::byte> signature) const;

 private:
  Bytes message(const PublicKey& signer) const;

  ImageHeader image_;
  uint64_t chunks_ = 0;
  crypto_generichash_state state_;
};

}  // namespace snapgdb
