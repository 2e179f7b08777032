// Keys, encrypted and signed images. The first byte says what the rest is: a key as text, an image
// as it comes, or an image whose encrypted chunks stand there in clear (16 bytes left free behind
// each payload), to be encrypted here, so that the fuzzer gets behind the encryption.
#include <fcntl.h>
#include <unistd.h>

#include "core/image/encryption.h"
#include "tests/fuzz/try_image.h"

namespace {

using namespace snapgdb;

struct Keys {
  std::shared_ptr<const SecretKey> reader = SecretKey::generate();
  std::shared_ptr<const ImageKey> image = ImageKey::random();
  Bytes locked = image->lock({&reader->public_key(), 1});
  Fd file = [this] {
    const std::string path = fmt::format("/tmp/snapgdb-fuzz-key.{}", ::getpid());
    reader->save(path);
    Fd open_file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    ::unlink(path.c_str());
    return open_file;
  }();
};

void try_key(std::string_view text) {
  try {
    PublicKey::parse(text);
  } catch (const Error&) {
  }
  try {
    SecretKey::parse(text);
  } catch (const Error&) {
  }
}

// Afterwards the checksums fit, too.
void encrypt(std::span<std::byte> image, const Keys& keys) {
  const ImageHeader header{get<uint64_t>(image, 16)};
  test::mend_checksums(image);
  test::for_each_chunk(image, [&](size_t at, size_t stored) {
    const auto payload = image.subspan(at + ChunkHeader::kSize, stored);
    const auto chunk =
        ChunkHeader::decode(image.subspan(at, ChunkHeader::kSize), chunk_seed(header.image_id, at));
    if (chunk.type == kKeysChunk && stored >= keys.locked.size())
      std::ranges::copy(keys.locked, payload.begin());
    if (chunk.filter != Filter::kEncrypted || stored < ImageKey::kOverhead) return;
    const Bytes encrypted =
        keys.image->encrypt(header, at, chunk, payload.first(stored - ImageKey::kOverhead));
    std::ranges::copy(encrypted, payload.begin());
  });
  test::mend_checksums(image);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Keys kKeys;
  if (size == 0) return 0;
  std::string bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  const auto image = std::as_writable_bytes(std::span(bytes));
  switch (data[0] % 3) {
    case 0:
      try_key(bytes);
      break;
    case 1:
      test::mend_checksums(image);
      fuzz::try_image(bytes, fuzz::path_of(kKeys.file));
      break;
    default:
      if (image.size() >= ImageHeader::kSize) encrypt(image, kKeys);
      fuzz::try_image(bytes, fuzz::path_of(kKeys.file));
  }
  return 0;
}
