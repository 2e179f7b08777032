// Encryption and signatures. Whoever changes an image here knows the format as well as we do: the
// checksums, which find accidents only, are put right after every change where that is the point.
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <thread>

#include "tests/unit/image/chunk_walk.h"
#include "tests/unit/image/salvage.h"

using namespace snapgdb;
using namespace snapgdb::test;
using Catch::Matchers::Contains;

namespace {

// Keys are made once, and stand in files as users' keys do.
struct Keys {
  TemporaryDirectory directory;
  std::shared_ptr<const SecretKey> alice = SecretKey::generate(), bob = SecretKey::generate();

  Keys() {
    alice->save(directory.file("alice"));
    bob->save(directory.file("bob"));
  }
  OpenOptions as(const std::string& who, bool salvage = false) const {
    return {.salvage = salvage, .key_file = who.empty() ? "" : directory.file(who)};
  }
};

const Keys& keys() {
  static const Keys kKeys;
  return kKeys;
}

WriteOptions encrypted(int level = 1) {
  return {.level = level, .recipients = {keys().alice->public_key()}};
}

WriteOptions with_signature(WriteOptions options = {}) {
  options.signer = keys().alice;
  return options;
}

struct Place {
  uint32_t type = 0;
  size_t offset = 0, end = 0;
};

std::vector<Place> chunks_of(std::string image) {
  const auto bytes = std::as_writable_bytes(std::span(image));
  std::vector<Place> places;
  for_each_chunk(bytes, [&](size_t at, size_t stored) {
    places.push_back({get<uint32_t>(bytes, at), at, at + ChunkHeader::kSize + stored});
  });
  return places;
}

void mend(std::string& image) {
  mend_checksums(std::as_writable_bytes(std::span(image)));
}

std::string complaint_about(const std::string& bytes, const OpenOptions& options) {
  const TemporaryDirectory directory;
  write_file(directory.file("x"), bytes);
  return complaint(directory.file("x"), options);
}

}  // namespace

TEST_CASE("who an image is encrypted for reads all of it", "[filters]") {
  const TemporaryDirectory directory;
  const auto level = GENERATE(0, 1);
  const std::string path = sample_image(directory, encrypted(level), "ab");
  const OpenOptions alice = keys().as("alice");
  for (const auto& [name, filling] : {std::pair{"@1", "a"}, {"@2", "b"}, {"", "b"}}) {
    const auto snapshot = open_snapshot(path + name, alice);
    CHECK(memory(*snapshot, 0x1000, 1) == filling);
    CHECK(snapshot->root().name() == "sample");
    CHECK(snapshot->file_contents(*snapshot->embedded_file("/bin/x")) == "file");
  }
  const Verification found = Image::open(path, alice)->verify();
  CHECK(found.encrypted);
  CHECK_FALSE(found.signer);
}

TEST_CASE("who waits for an image to be verified sees how far that is", "[filters]") {
  const TemporaryDirectory directory;
  const std::string path = sample_image(directory, {}, "ab");
  Progress progress;
  Image::open(path)->verify(&progress);
  CHECK(progress.total() == std::filesystem::file_size(path));
  CHECK(progress.done() > progress.total() / 2);
  CHECK(progress.done() <= progress.total());
}

TEST_CASE("an encrypted image shows nothing of what is in it", "[filters]") {
  const TemporaryDirectory directory;
  const std::string bytes = read_file(sample_image(directory, with_signature(encrypted(0)), "ab"));
  for (const std::string plain : {"sample", "filled with", "/bin/x", "aaaa", "bbbb", "file"})
    CHECK(bytes.find(plain) == std::string::npos);
  const auto signer = keys().alice->public_key().encode();
  CHECK(bytes.find(std::string(reinterpret_cast<const char*>(signer.data()), signer.size())) ==
        std::string::npos);
}

TEST_CASE("without the right key an encrypted image says which kind of key is wanted",
          "[filters]") {
  const TemporaryDirectory directory;
  const std::string path = sample_image(directory, encrypted(), "a");
  CHECK_THAT(complaint(path, keys().as("")),
             Contains("it is encrypted") && Contains("give --key FILE, or set SNAPGDB_KEY"));
  CHECK_THAT(complaint(path, keys().as("bob")),
             Contains("it is encrypted for another key") && Contains("bob"));
  CHECK_THAT(complaint(path, keys().as("nobody")), Contains("No such file"));
}

TEST_CASE("an image that is not encrypted takes no notice of keys", "[filters]") {
  const TemporaryDirectory directory;
  CHECK(complaint(sample_image(directory), keys().as("nobody")).empty());
}

TEST_CASE("an image can be for several, and only for them", "[filters]") {
  const TemporaryDirectory directory;
  const auto carol = SecretKey::generate();
  carol->save(directory.file("carol"));
  const std::string path = sample_image(
      directory, {.recipients = {keys().alice->public_key(), keys().bob->public_key()}}, "a");
  CHECK(complaint(path, keys().as("alice")).empty());
  CHECK(complaint(path, keys().as("bob")).empty());
  CHECK_THAT(complaint(path, {.key_file = directory.file("carol")}), Contains("another key"));
}

TEST_CASE("every flipped byte of an encrypted and signed image is noticed", "[filters]") {
  const TemporaryDirectory directory;
  const std::string whole = read_file(sample_image(directory, with_signature(encrypted()), "a"));
  REQUIRE(complaint_about(whole, keys().as("alice")).empty());
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string bytes = whole;
    bytes[i] = static_cast<char>(bytes[i] ^ 0x10);
    CAPTURE(i);
    CHECK_FALSE(complaint_about(bytes, keys().as("alice")).empty());
  }
}

TEST_CASE("every cut of an encrypted and signed image is recognised as one", "[filters]") {
  const TemporaryDirectory directory;
  const std::string whole = read_file(sample_image(directory, with_signature(encrypted()), "ab"));
  for (size_t size = ImageHeader::kSize; size < whole.size(); ++size) {
    CAPTURE(size);
    CHECK_THAT(complaint_about(whole.substr(0, size), keys().as("alice")), Contains("cut off"));
  }
}

TEST_CASE("what is whole in an encrypted image that was cut off can be salvaged", "[filters]") {
  const TemporaryDirectory directory;
  check_salvaged_wherever_cut(sample_image(directory, encrypted(), "a"), keys().as("alice"));
}

TEST_CASE("salvaging names the damaged chunks it leaves out, and what they held", "[filters]") {
  const TemporaryDirectory directory;
  std::string bytes = read_file(sample_image(directory, encrypted(), "a"));
  const auto chunks = chunks_of(bytes);
  const auto page = std::ranges::find(chunks, kPageChunk, &Place::type);
  bytes[page->offset + ChunkHeader::kSize] ^= 1;
  write_file(directory.file("x"), bytes);
  const auto snapshot = open_snapshot(directory.file("x"), keys().as("alice", true));
  REQUIRE(snapshot->record().missing_size() == 1);
  CHECK_THAT(snapshot->record().missing(0).resource(), Contains("PAGE chunk at byte"));
  CHECK(memory(*snapshot, 0x1000, 1).empty());
  CHECK_THAT(snapshot->missing_reason(snapshot->root(), 0x1000), Contains("lost"));
  CHECK(memory(*snapshot, 0x2000, 1) == std::string(1, '\0'));
}

TEST_CASE("an encrypted image whose key is damaged says that nothing can be done", "[filters]") {
  const TemporaryDirectory directory;
  std::string bytes = read_file(sample_image(directory, encrypted(), "a"));
  bytes[ImageHeader::kSize + ChunkHeader::kSize] ^= 1;
  write_file(directory.file("x"), bytes);
  const bool salvage = GENERATE(false, true);
  CHECK_THROWS_WITH(open_snapshot(directory.file("x"), keys().as("alice", salvage)),
                    Contains("the chunk that holds its key is damaged"));
}

TEST_CASE("a wrong key salvages nothing", "[filters]") {
  const TemporaryDirectory directory;
  const std::string path = sample_image(directory, encrypted(), "a");
  CHECK_THROWS_WITH(open_snapshot(path, keys().as("bob", true)), Contains("another key"));
  CHECK_THROWS_WITH(open_snapshot(path, keys().as("", true)), Contains("it is encrypted"));
}

TEST_CASE("an encrypted image may come through a pipe", "[filters]") {
  const TemporaryDirectory directory;
  const std::string bytes = read_file(sample_image(directory, encrypted(), "a"));
  const std::string fifo = directory.file("fifo");
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  std::jthread feeder([&] { write_file(fifo, bytes); });
  CHECK(memory(*open_snapshot(fifo, keys().as("alice")), 0x1000, 1) == "a");
}

TEST_CASE("an encrypted and signed image may be written to a pipe", "[filters]") {
  const TemporaryDirectory directory;
  const std::string fifo = directory.file("fifo"), path = directory.file("copy");
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  {
    std::jthread reader([&] { write_file(path, read_file(fifo)); });
    ImageWriter image(OutputFile::create(fifo), with_signature(encrypted()));
    PageWriter pages(image);
    write_sample(image, pages, 'a');
    image.commit();
  }
  CHECK(Image::open(path, keys().as("alice"))->verify().signer == keys().alice->public_key());
}

TEST_CASE("a changed byte of an encrypted image is noticed even if the checksums are mended",
          "[filters]") {
  const TemporaryDirectory directory;
  const std::string whole = read_file(sample_image(directory, encrypted(), "ab"));
  for (const Place& chunk : chunks_of(whole)) {
    if (chunk.type == kKeysChunk || chunk.type == kTailChunk) continue;
    // Flags, codec, snapshot, lengths; the first, a middle and the last byte of the payload.
    for (const size_t at : {chunk.offset + 4, chunk.offset + 6, chunk.offset + 8, chunk.offset + 24,
                            chunk.offset + ChunkHeader::kSize,
                            (chunk.offset + ChunkHeader::kSize + chunk.end) / 2, chunk.end - 1}) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ 1);
      mend(bytes);
      CAPTURE(chunk_type_name(chunk.type), at - chunk.offset);
      CHECK_FALSE(complaint_about(bytes, keys().as("alice")).empty());
    }
  }
}

TEST_CASE("encrypted chunks cannot change places, nor go to another image", "[filters]") {
  const TemporaryDirectory directory;
  const std::string one = read_file(sample_image(directory, encrypted(0), "aa"));
  const auto chunks = chunks_of(one);
  std::vector<Place> processes;
  std::ranges::copy_if(chunks, std::back_inserter(processes),
                       [](const Place& chunk) { return chunk.type == kProcessChunk; });
  REQUIRE(processes.size() == 2);
  std::string swapped = one;
  for (size_t i = ChunkHeader::kSize; i < processes[0].end - processes[0].offset; ++i)
    std::swap(swapped[processes[0].offset + i], swapped[processes[1].offset + i]);
  mend(swapped);
  CHECK_THAT(complaint_about(swapped, keys().as("alice")), Contains("changed after it was"));

  std::string renamed = one;
  renamed[16] ^= 1;  // the image id
  mend(renamed);
  CHECK_THAT(complaint_about(renamed, keys().as("alice")), Contains("changed after it was"));
}

TEST_CASE("a plain chunk cannot be slipped into an encrypted image", "[filters]") {
  const TemporaryDirectory directory;
  std::string bytes = read_file(sample_image(directory, encrypted(0), "a"));
  const auto chunks = chunks_of(bytes);
  bytes[std::ranges::find(chunks, kProcessChunk, &Place::type)->offset + 7] = 0;
  mend(bytes);
  CHECK_THAT(complaint_about(bytes, keys().as("alice")), Contains("not encrypted as the others"));
}

TEST_CASE("a signature tells who made the image", "[filters]") {
  const TemporaryDirectory directory;
  const bool secret = GENERATE(false, true);
  const std::string path =
      sample_image(directory, with_signature(secret ? encrypted() : WriteOptions{}), "ab");
  const Verification found = Image::open(path, keys().as("alice"))->verify();
  CHECK(found.signer == keys().alice->public_key());
  CHECK(found.encrypted == secret);
}

TEST_CASE("an image is signed anew with every snapshot that is added", "[filters]") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("timeline.snapgdb");
  ImageWriter image(OutputFile::create(path), with_signature(encrypted()));
  PageWriter pages(image);
  for (const char filling : {'a', 'b', 'c'}) {
    write_sample(image, pages, filling);
    image.commit();
    const auto opened = Image::open(path, keys().as("alice"));
    CHECK(opened->verify().signer == keys().alice->public_key());
    CHECK(memory(*open_snapshot(path, keys().as("alice")), 0x1000, 1) == std::string(1, filling));
  }
  CHECK(memory(*open_snapshot(path + "@1", keys().as("alice")), 0x1000, 1) == "a");
}

TEST_CASE("whatever is changed in a signed image, it does not verify", "[filters]") {
  const TemporaryDirectory directory;
  const std::string whole = read_file(sample_image(directory, with_signature(), "a"));
  REQUIRE(complaint_about(whole, {}).empty());
  for (const Place& chunk : chunks_of(whole)) {
    for (size_t at = chunk.offset + ChunkHeader::kSize; at < chunk.end; at += 3) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ 1);
      mend(bytes);
      CAPTURE(chunk_type_name(chunk.type), at - chunk.offset);
      CHECK_FALSE(complaint_about(bytes, {}).empty());
    }
  }
}

TEST_CASE("what is added behind a signature does not pass as signed", "[filters]") {
  const TemporaryDirectory directory;
  std::string bytes = read_file(sample_image(directory, with_signature(), "a"));
  const auto chunks = chunks_of(bytes);
  const Place index = chunks[chunks.size() - 3];
  REQUIRE(index.type == kIndexChunk);
  bytes +=
      bytes.substr(index.offset, index.end - index.offset) + bytes.substr(chunks.back().offset);
  put(std::as_writable_bytes(std::span(bytes)), bytes.size() - sizeof(uint64_t),
      uint64_t{chunks.back().end});
  mend(bytes);
  CHECK_THAT(complaint_about(bytes, {}), Contains("signed only up to its middle"));
}

TEST_CASE("a signature that was taken away leaves an image that is not signed", "[filters]") {
  const TemporaryDirectory directory;
  std::string bytes = read_file(sample_image(directory, with_signature(), "a"));
  const auto chunks = chunks_of(bytes);
  const Place& signature = chunks[chunks.size() - 2];
  REQUIRE(signature.type == kSignatureChunk);
  bytes.erase(signature.offset, signature.end - signature.offset);
  mend(bytes);
  write_file(directory.file("x"), bytes);
  CHECK_FALSE(Image::open(directory.file("x"))->verify().signer);
}
