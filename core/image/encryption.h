#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "core/image/chunk.h"
#include "core/image/keys.h"

namespace snapgdb {

// The secret of one image, drawn anew for each. It stands in the KEYS chunk, sealed for every
// recipient, and encrypts the chunks behind that: XChaCha20-Poly1305, bound to the image, to the
// chunk's place in it and to its header. Safe to share between threads.
class ImageKey {
 public:
  static constexpr size_t kSize = 32, kSealedSize = kSize + kSealOverhead;
  static constexpr size_t kOverhead = 16;  // that encrypting adds to a payload

  static std::shared_ptr<const ImageKey> random();
  // From the payload of a KEYS chunk; nullptr if it is for other keys than `reader`.
  static std::shared_ptr<const ImageKey> unlock(std::span<const std::byte> keys,
                                                const SecretKey& reader);
  // The payload of a KEYS chunk. Throws Error if a recipient's key is forged.
  Bytes lock(std::span<const PublicKey> recipients) const;

  // `header` is that of the chunk at `offset`, complete but for the checksum, its stored_size that
  // of the encrypted payload.
  Bytes encrypt(const ImageHeader& image, uint64_t offset, const ChunkHeader& header,
                std::span<const std::byte> payload) const;
  // Throws Error if the payload, its header or its place are not those that were encrypted.
  Bytes decrypt(const ImageHeader& image, uint64_t offset, const ChunkHeader& header,
                std::span<const std::byte> stored) const;

 private:
  Secret<kSize> key_;
};

}  // namespace snapgdb
