#include "core/image/keys.h"

#include <fcntl.h>
#include <sodium.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/base/fd.h"
#include "core/base/strings.h"
#include "core/image/libsodium.h"

namespace snapgdb {
namespace {

constexpr std::string_view kPublicTag = "snapgdb1:", kSecretTag = "snapgdb1-secret:";
constexpr size_t kKeySize = 64, kCheckSize = 4;
constexpr int kVariant = sodium_base64_VARIANT_URLSAFE_NO_PADDING;
constexpr size_t kMaxKeyFile = 4096;

static_assert(kSealOverhead == crypto_box_SEALBYTES);

// Four bytes behind the key, so that a slip in copying it does not encrypt for nobody.
std::array<std::byte, kCheckSize> check_of(std::string_view tag, std::span<const std::byte> key) {
  Secret<crypto_generichash_BYTES> hash;
  crypto_generichash_state state;
  ::crypto_generichash_init(&state, nullptr, 0, hash.bytes().size());
  ::crypto_generichash_update(&state, raw(tag), tag.size());
  ::crypto_generichash_update(&state, raw(key), key.size());
  ::crypto_generichash_final(&state, raw(hash.bytes()), hash.bytes().size());
  ::sodium_memzero(&state, sizeof state);
  std::array<std::byte, kCheckSize> check;
  std::ranges::copy(hash.bytes().first<kCheckSize>(), check.begin());
  return check;
}

// May hold a secret: the caller wipes it.
std::string to_text(std::string_view tag, std::span<const std::byte, kKeySize> key) {
  start_libsodium();
  Secret<kKeySize + kCheckSize> bytes;
  std::ranges::copy(key, bytes.bytes().begin());
  std::ranges::copy(check_of(tag, key), bytes.bytes().begin() + kKeySize);
  std::array<char, sodium_base64_ENCODED_LEN(kKeySize + kCheckSize, kVariant)> encoded;
  ::sodium_bin2base64(encoded.data(), encoded.size(), raw(bytes.bytes()), bytes.bytes().size(),
                      kVariant);
  std::string text;
  text.reserve(tag.size() + encoded.size());  // so that no copy stays behind
  text.append(tag).append(encoded.data());
  wipe(std::as_writable_bytes(std::span(encoded)));
  return text;
}

bool from_text(std::string_view tag, std::string_view text, std::span<std::byte, kKeySize> key) {
  start_libsodium();
  if (!text.starts_with(tag)) return false;
  text.remove_prefix(tag.size());
  Secret<kKeySize + kCheckSize> bytes;
  size_t size = 0;
  if (::sodium_base642bin(raw(bytes.bytes()), bytes.bytes().size(), text.data(), text.size(),
                          nullptr, &size, nullptr, kVariant) != 0 ||
      size != bytes.bytes().size())
    return false;
  std::ranges::copy(bytes.bytes().first<kKeySize>(), key.begin());
  return std::ranges::equal(check_of(tag, key), bytes.bytes().last<kCheckSize>());
}

// The line of a key file that is not a comment.
std::string_view key_line(std::string_view text) {
  for (const std::string_view line : split(text, '\n'))
    if (const std::string_view key = trim(line); !key.empty() && key[0] != '#') return key;
  return "";
}

std::string read_key_file(const std::string& path) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) throw_errno("cannot open the key file {}", path);
  std::string text(kMaxKeyFile, '\0');
  text.resize(read_upto(file.get(), std::as_writable_bytes(std::span(text)), path));
  return text;
}

}  // namespace

void wipe(std::span<std::byte> secret) {
  ::sodium_memzero(secret.data(), secret.size());
}

// ---- Public -------------------------------------------------------------------------------------

std::string PublicKey::text() const {
  return to_text(kPublicTag, encode());
}

PublicKey PublicKey::parse(std::string_view text) {
  std::array<std::byte, kSize> bytes{};
  if (from_text(kPublicTag, text, bytes)) return decode(bytes);
  if (text.starts_with(kSecretTag))
    throw Error("cannot use that key", "it is a secret key where a public one is wanted",
                "the public one is in the file ending in .pub", ExitStatus::kUsage);
  throw Error(
      "cannot use that key",
      text.starts_with(kPublicTag) ? "it was not copied whole" : "it is no public key",
      "snapgdb keygen makes keys; the public one begins with snapgdb1:", ExitStatus::kUsage);
}

PublicKey PublicKey::load(const std::string& text_or_path) {
  if (text_or_path.starts_with(kPublicTag)) return parse(text_or_path);
  std::string text = read_key_file(text_or_path);
  try {
    return parse(key_line(text));
  } catch (const Error& error) {
    wipe(std::as_writable_bytes(std::span(text)));  // it may be a secret key
    throw error.within(text_or_path);
  }
}

std::array<std::byte, PublicKey::kSize> PublicKey::encode() const {
  std::array<std::byte, kSize> bytes{};
  std::ranges::copy(encryption, bytes.begin());
  std::ranges::copy(signing, bytes.begin() + encryption.size());
  return bytes;
}

PublicKey PublicKey::decode(std::span<const std::byte, kSize> bytes) {
  PublicKey key;
  std::ranges::copy(bytes.first<32>(), key.encryption.begin());
  std::ranges::copy(bytes.last<32>(), key.signing.begin());
  return key;
}

// ---- Secret -------------------------------------------------------------------------------------

std::shared_ptr<const SecretKey> SecretKey::generate() {
  start_libsodium();
  const auto key = std::make_shared<SecretKey>();
  ::randombytes_buf(key->bytes_.bytes().data(), key->bytes_.bytes().size());
  key->derive_public_key();
  return key;
}

std::shared_ptr<const SecretKey> SecretKey::load(const std::string& path) {
  std::string text = read_key_file(path);
  const auto wiped = [&text] { wipe(std::as_writable_bytes(std::span(text))); };
  try {
    auto key = parse(key_line(text));
    wiped();
    return key;
  } catch (const Error& error) {
    wiped();
    throw error.within(path);
  }
}

std::shared_ptr<const SecretKey> SecretKey::parse(std::string_view text) {
  const auto key = std::make_shared<SecretKey>();
  if (from_text(kSecretTag, text, key->bytes_.bytes())) {
    key->derive_public_key();
    return key;
  }
  if (text.starts_with(kPublicTag))
    throw Error("cannot use that key", "it is a public key where a secret one is wanted",
                "the secret one is in the file without .pub");
  throw Error("cannot use that key", "there is no secret key in it", "snapgdb keygen makes one");
}

void SecretKey::save(const std::string& path) const {
  const Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file.valid()) throw_errno("cannot create {}", path);
  std::string key = to_text(kSecretTag, bytes_.bytes());
  std::string text = "# Whoever has this can read what is encrypted for, and sign as:\n# " +
                     public_key_.text() + "\n";
  text.reserve(text.size() + key.size() + 1);
  text.append(key).append("\n");
  write_all(file.get(), std::as_bytes(std::span(text)), path);
  wipe(std::as_writable_bytes(std::span(key)));
  wipe(std::as_writable_bytes(std::span(text)));
  if (::fsync(file.get()) != 0) throw_errno("cannot write {}", path);
}

void SecretKey::derive_public_key() {
  Secret<crypto_sign_SECRETKEYBYTES> unused;
  ::crypto_scalarmult_base(raw(public_key_.encryption), raw(bytes_.bytes().first<32>()));
  ::crypto_sign_seed_keypair(raw(public_key_.signing), raw(unused.bytes()),
                             raw(bytes_.bytes().last<32>()));
}

bool SecretKey::unseal(std::span<const std::byte> sealed, std::span<std::byte> out) const {
  return sealed.size() == out.size() + kSealOverhead &&
         ::crypto_box_seal_open(raw(out), raw(sealed), sealed.size(), raw(public_key_.encryption),
                                raw(bytes_.bytes().first<32>())) == 0;
}

std::array<std::byte, 64> SecretKey::sign(std::span<const std::byte> message) const {
  Secret<crypto_sign_SECRETKEYBYTES> secret;
  std::array<std::byte, 32> unused;
  std::array<std::byte, 64> signature;
  ::crypto_sign_seed_keypair(raw(unused), raw(secret.bytes()), raw(bytes_.bytes().last<32>()));
  ::crypto_sign_detached(raw(signature), nullptr, raw(message), message.size(),
                         raw(secret.bytes()));
  return signature;
}

void seal(const PublicKey& recipient, std::span<const std::byte> secret, std::span<std::byte> out) {
  start_libsodium();
  if (::crypto_box_seal(raw(out.first(secret.size() + kSealOverhead)), raw(secret), secret.size(),
                        raw(recipient.encryption)) != 0)
    throw Error("cannot encrypt for " + recipient.text(), "it is no key that can be used");
}

bool is_signed_by(const PublicKey& signer, std::span<const std::byte> message,
                  std::span<const std::byte, 64> signature) {
  start_libsodium();
  return ::crypto_sign_verify_detached(raw(signature), raw(message), message.size(),
                                       raw(signer.signing)) == 0;
}

}  // namespace snapgdb
