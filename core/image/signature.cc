#include "core/image/signature.h"

#include <algorithm>
#include <string_view>

#include "core/base/error.h"
#include "core/image/libsodium.h"

namespace snapgdb {
namespace {

constexpr size_t kSignatureSize = 64;

// Signed with it, so that no signature made for anything else can pass as that of an image.
constexpr std::string_view kPurpose = "snapgdb image signature, version 1";

void update(crypto_generichash_state& state, std::span<const std::byte> bytes) {
  ::crypto_generichash_update(&state, raw(bytes), bytes.size());
}

ImageHash::Digest finish(crypto_generichash_state state) {
  ImageHash::Digest digest;
  ::crypto_generichash_final(&state, raw(digest), digest.size());
  return digest;
}

crypto_generichash_state begin() {
  crypto_generichash_state state;
  ::crypto_generichash_init(&state, nullptr, 0, sizeof(ImageHash::Digest));
  return state;
}

}  // namespace

ImageHash::ImageHash(const ImageHeader& image) : image_(image) {
  start_libsodium();
  state_ = begin();
}

ImageHash::Digest ImageHash::of_chunk(std::span<const std::byte, ChunkHeader::kSize> header,
                                      std::span<const std::byte> stored) {
  crypto_generichash_state state = begin();
  update(state, header);
  update(state, stored);
  return finish(state);
}

void ImageHash::add(const Digest& chunk) {
  update(state_, chunk);
  ++chunks_;
}

Bytes ImageHash::message(const PublicKey& signer) const {
  Bytes message;
  const auto append = [&](std::span<const std::byte> bytes) {
    message.insert(message.end(), bytes.begin(), bytes.end());
  };
  std::array<std::byte, sizeof chunks_> count;
  put(count, 0, chunks_);
  append(std::as_bytes(std::span(kPurpose)));
  append(image_.encode());
  append(signer.encode());
  append(count);
  append(finish(state_));
  return message;
}

Bytes ImageHash::sign(const SecretKey& signer) const {
  const auto key = signer.public_key().encode();
  const auto signature = signer.sign(message(signer.public_key()));
  Bytes payload(key.size() + signature.size());
  std::ranges::copy(key, payload.begin());
  std::ranges::copy(signature, payload.begin() + key.size());
  return payload;
}

PublicKey ImageHash::check(std::span<const std::byte> signature) const {
  if (signature.size() == PublicKey::kSize + kSignatureSize) {
    const PublicKey signer = PublicKey::decode(signature.first<PublicKey::kSize>());
    if (is_signed_by(signer, message(signer), signature.last<kSignatureSize>())) return signer;
  }
  throw Error("cannot verify the signature", "it does not fit the image",
              "the image was changed after it was signed");
}

}  // namespace snapgdb
