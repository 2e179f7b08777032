#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace snapgdb {

// Overwrites key material, however sure the compiler is that nobody reads it again.
void wipe(std::span<std::byte> secret);

// Key material: stays in one place, and is wiped there when it goes.
template <size_t N>
class Secret {
 public:
  Secret() = default;
  ~Secret() { wipe(bytes_); }
  Secret(const Secret&) = delete;
  Secret& operator=(const Secret&) = delete;

  std::span<std::byte, N> bytes() { return bytes_; }
  std::span<const std::byte, N> bytes() const { return bytes_; }

 private:
  std::array<std::byte, N> bytes_{};
};

// The half of a key that everybody may know: images are encrypted for it, signatures checked by it.
struct PublicKey {
  static constexpr size_t kSize = 64;
  std::array<std::byte, 32> encryption{};  // X25519
  std::array<std::byte, 32> signing{};     // Ed25519

  // One line of text, "snapgdb1:…". A slip in copying it is noticed by parse().
  std::string text() const;
  // Throws Error (wrong usage) if that is no public key.
  static PublicKey parse(std::string_view text);
  // From the text itself, or from the file of that name.
  static PublicKey load(const std::string& text_or_path);

  std::array<std::byte, kSize> encode() const;
  static PublicKey decode(std::span<const std::byte, kSize> bytes);
  bool operator==(const PublicKey&) const = default;
};

// The half that opens what was encrypted for its owner, and signs as its owner.
class SecretKey {
 public:
  static std::shared_ptr<const SecretKey> generate();
  // Throws Error: no such file, no secret key in it.
  static std::shared_ptr<const SecretKey> load(const std::string& path);
  static std::shared_ptr<const SecretKey> parse(std::string_view text);
  // Throws SystemError, also if there is a file of that name. Mode 0600.
  void save(const std::string& path) const;

  const PublicKey& public_key() const { return public_key_; }
  // Opens what seal() made for this key's public half. Returns whether it is for it.
  bool unseal(std::span<const std::byte> sealed, std::span<std::byte> out) const;
  std::array<std::byte, 64> sign(std::span<const std::byte> message) const;

 private:
  void derive_public_key();

  // X25519 secret key and Ed25519 seed.
  Secret<64> bytes_;
  PublicKey public_key_;
};

inline constexpr size_t kSealOverhead = 48;
// Only the owner of `recipient` can open it, and nobody can tell for whom it is.
void seal(const PublicKey& recipient, std::span<const std::byte> secret, std::span<std::byte> out);

bool is_signed_by(const PublicKey& signer, std::span<const std::byte> message,
                  std::span<const std::byte, 64> signature);

}  // namespace snapgdb
