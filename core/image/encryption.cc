#include "core/image/encryption.h"

#include <sodium.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/image/libsodium.h"

namespace snapgdb {
namespace {

static_assert(ImageKey::kSize == crypto_aead_xchacha20poly1305_ietf_KEYBYTES);
static_assert(ImageKey::kOverhead == crypto_aead_xchacha20poly1305_ietf_ABYTES);

using Nonce = std::array<std::byte, crypto_aead_xchacha20poly1305_ietf_NPUBBYTES>;

// An image only grows, so nothing else is ever encrypted at the same offset with the same key.
Nonce nonce_at(const ImageHeader& image, uint64_t offset) {
  Nonce nonce{};
  put(nonce, 0, image.image_id);
  put(nonce, 8, offset);
  return nonce;
}

// Both headers without their checksums, which are no part of what was meant.
constexpr size_t kImagePart = 24, kChunkPart = 32;
std::array<std::byte, kImagePart + kChunkPart> bound_to(const ImageHeader& image,
                                                        const ChunkHeader& header) {
  std::array<std::byte, kImagePart + kChunkPart> bytes;
  const auto first = image.encode();
  const auto second = header.encode(0);
  std::ranges::copy(std::span(first).first(kImagePart), bytes.begin());
  std::ranges::copy(std::span(second).first(kChunkPart), bytes.begin() + kImagePart);
  return bytes;
}

}  // namespace

std::shared_ptr<const ImageKey> ImageKey::random() {
  start_libsodium();
  const auto key = std::make_shared<ImageKey>();
  ::randombytes_buf(key->key_.bytes().data(), kSize);
  return key;
}

std::shared_ptr<const ImageKey> ImageKey::unlock(std::span<const std::byte> keys,
                                                 const SecretKey& reader) {
  const auto key = std::make_shared<ImageKey>();
  for (; keys.size() >= kSealedSize; keys = keys.subspan(kSealedSize))
    if (reader.unseal(keys.first(kSealedSize), key->key_.bytes())) return key;
  return nullptr;
}

Bytes ImageKey::lock(std::span<const PublicKey> recipients) const {
  Bytes keys(recipients.size() * kSealedSize);
  for (size_t i = 0; i < recipients.size(); ++i)
    seal(recipients[i], key_.bytes(), std::span(keys).subspan(i * kSealedSize, kSealedSize));
  return keys;
}

Bytes ImageKey::encrypt(const ImageHeader& image, uint64_t offset, const ChunkHeader& header,
                        std::span<const std::byte> payload) const {
  Bytes stored(payload.size() + kOverhead);
  const Nonce nonce = nonce_at(image, offset);
  const auto bound = bound_to(image, header);
  ::crypto_aead_xchacha20poly1305_ietf_encrypt(raw(stored), nullptr, raw(payload), payload.size(),
                                               raw(bound), bound.size(), nullptr, raw(nonce),
                                               raw(key_.bytes()));
  return stored;
}

Bytes ImageKey::decrypt(const ImageHeader& image, uint64_t offset, const ChunkHeader& header,
                        std::span<const std::byte> stored) const {
  const Nonce nonce = nonce_at(image, offset);
  const auto bound = bound_to(image, header);
  Bytes payload(stored.size() - std::min(stored.size(), kOverhead));
  if (stored.size() >= kOverhead &&
      ::crypto_aead_xchacha20poly1305_ietf_decrypt(raw(payload), nullptr, nullptr, raw(stored),
                                                   stored.size(), raw(bound), bound.size(),
                                                   raw(nonce), raw(key_.bytes())) == 0)
    return payload;
  throw Error("cannot read the image", fmt::format("a {} chunk was changed after it was encrypted",
                                                   chunk_type_name(header.type)));
}

}  // namespace snapgdb
