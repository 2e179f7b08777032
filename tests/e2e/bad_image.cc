// Files that are no good image: one clear line, exit status 1, whatever the command.

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <map>
#include <set>

#include "tests/e2e/harness.h"
#include "tests/e2e/image_bytes.h"

namespace snapgdb::e2e {
namespace {

struct GoodImage {
  std::string bytes;
  pid_t root;
};

// Taken once, since only its bytes matter.
const GoodImage& good() {
  static const GoodImage image = [] {
    const TempDir directory;
    Target target("zombies");
    capture(target.pid(), directory / "image");
    return GoodImage{read_file(directory / "image"), target.pid()};
  }();
  return image;
}

const std::string& a_good_image() {
  return good().bytes;
}

// Each command that opens an image must refuse it alike.
void check_every_command_refuses(const std::string& path, const Words& parts) {
  const TempDir directory;
  const std::vector<Words> commands{{"show", path},
                                    {"show", path, "--json"},
                                    {"bt", path},
                                    {"verify", path},
                                    {"core", path, "-o", "cores"},
                                    {"serve", path},
                                    {"debug", path},
                                    {path}};
  for (const Words& command : commands) {
    check_refused(snapgdb(command, {.directory = directory.path()}), 1, parts);
  }
  CHECK(directory.names().empty());
}

void check_bytes_refused(const std::string& bytes, const Words& parts) {
  const TempDir directory;
  write_file(directory / "bad.snapgdb", bytes);
  check_every_command_refuses(directory / "bad.snapgdb", parts);
}

TEST_CASE("a file that does not exist is said to be missing") {
  check_every_command_refuses("/nonexistent/x.snapgdb",
                              {"/nonexistent/x.snapgdb", "No such file or directory"});
}

TEST_CASE("a directory is no image") {
  const TempDir directory;
  check_every_command_refuses(directory.path(), {directory.path()});
}

TEST_CASE("an empty file is no image") {
  check_bytes_refused("", {"bad.snapgdb", "not a snapgdb image"});
}

TEST_CASE("a text file is no image") {
  check_bytes_refused(fmt::format("{:x<1000}\n", ""), {"bad.snapgdb", "not a snapgdb image"});
}

TEST_CASE("another binary file is no image") {
  check_every_command_refuses("/bin/sh", {"/bin/sh", "not a snapgdb image"});
}

TEST_CASE("an image whose line ends were converted is recognised as that") {
  std::string bytes;
  for (const char c : a_good_image().substr(0, 100000)) {
    if (c == '\n' && (bytes.empty() || bytes.back() != '\r')) bytes += '\r';
    bytes += c;
  }
  check_bytes_refused(bytes, {"bad.snapgdb", "binary"});
}

TEST_CASE("an image of a newer version is refused as that") {
  std::string bytes = a_good_image();
  bytes[kVersionOffset] = 99;
  check_bytes_refused(bytes, {"bad.snapgdb", "99", "newer"});
}

TEST_CASE("what comes through a pipe and is no image is refused as soon as that is seen") {
  Running reader({program(), "show", "-"}, {.input = RunOptions::kPipe});
  reader.write(fmt::format("{:x<100}", ""));  // and more might come for ever
  check_refused(reader.wait(), 1, {"not a snapgdb image"});
}

TEST_CASE("one snapshot alone is not verified") {
  const TempDir directory;
  const std::string image = directory / "x.snapgdb";
  write_file(image, a_good_image());
  check_refused(snapgdb({"verify", image + "@1"}), 2,
                {image + "@1", "all snapshots", "snapgdb verify " + image});
  CHECK(snapgdb({"verify", image}).ok());
}

TEST_CASE("an image that does not exist at that number is refused") {
  const TempDir directory;
  write_file(directory / "x.snapgdb", a_good_image());
  for (const char* number : {"@2", "@-2", "@0", "@99999999999999999999"}) {
    const Result result = snapgdb({"show", directory / "x.snapgdb" + std::string(number)});
    CAPTURE(number);
    check_refused(result, 1, {"x.snapgdb", "it has 1 snapshot"});
  }
  CHECK(snapgdb({"show", directory / "x.snapgdb@1"}).ok());
  CHECK(snapgdb({"show", directory / "x.snapgdb@-1"}).ok());
}

// Lengths around everything that has a boundary, and some in between.
std::set<size_t> lengths_to_cut_to(const std::string& image) {
  std::set<size_t> lengths{0, 1, 7, 8, 31, 32, 33};
  std::map<std::string, int> seen;
  for (const ChunkPlace& chunk : chunks_of(image)) {
    if (++seen[chunk.type] > 2) continue;
    for (const size_t at : {chunk.offset, chunk.offset + kChunkHeaderSize, chunk.end()}) {
      lengths.insert({at - 1, at, at + 1});
    }
    lengths.insert(chunk.offset + kChunkHeaderSize + chunk.payload / 2);
  }
  lengths.erase(lengths.lower_bound(image.size()), lengths.end());
  return lengths;
}

TEST_CASE("an image that was cut off is recognised as that, at whatever length") {
  const TempDir directory;
  for (const size_t length : lengths_to_cut_to(a_good_image())) {
    CAPTURE(length);
    write_file(directory / "cut.snapgdb", a_good_image().substr(0, length));
    const Words what = length < kImageHeaderSize ? Words{"cut.snapgdb", "not a snapgdb image"}
                                                 : Words{"cut.snapgdb", "cut off"};
    check_refused(snapgdb({"verify", directory / "cut.snapgdb"}), 1, what);
    check_refused(snapgdb({"show", directory / "cut.snapgdb"}), 1, what);
  }
}

TEST_CASE("an image with anything behind its end is refused") {
  const TempDir directory;
  write_file(directory / "long.snapgdb", a_good_image() + "x");
  check_refused(snapgdb({"verify", directory / "long.snapgdb"}), 1, {"long.snapgdb"});
}

// The first, the middle and the last byte of each part of a chunk.
std::vector<size_t> places_to_damage(const ChunkPlace& chunk) {
  const size_t payload = chunk.offset + kChunkHeaderSize;
  std::vector<size_t> places;
  for (size_t i = 0; i < kChunkHeaderSize; i += 5) places.push_back(chunk.offset + i);
  for (const size_t at : {size_t{0}, chunk.payload / 2, chunk.payload - 1}) {
    if (chunk.payload) places.push_back(payload + at);
  }
  return places;
}

void check_flip_is_noticed(const TempDir& directory, size_t at) {
  std::string bytes = a_good_image();
  bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
  write_file(directory / "flipped.snapgdb", bytes);
  check_refused(snapgdb({"verify", directory / "flipped.snapgdb"}), 1, {"flipped.snapgdb"});
}

TEST_CASE("one flipped byte is noticed in the header and in every kind of chunk") {
  const TempDir directory;
  for (size_t at = 0; at < kImageHeaderSize; ++at) {
    CAPTURE(at);
    check_flip_is_noticed(directory, at);
  }
  std::set<std::string> kinds;
  for (const ChunkPlace& chunk : chunks_of(a_good_image())) {
    if (!kinds.insert(chunk.type).second) continue;
    for (const size_t at : places_to_damage(chunk)) {
      CAPTURE(chunk.type, at - chunk.offset);
      check_flip_is_noticed(directory, at);
    }
  }
  CHECK(kinds == std::set<std::string>{"ADDR", "FILE", "INDX", "PAGE", "PROC", "SNAP", "TAIL"});
}

TEST_CASE("damage is noticed by whatever needs the damaged bytes") {
  const TempDir directory;
  std::set<std::string> kinds;
  for (const ChunkPlace& chunk : chunks_of(a_good_image())) {
    if (!kinds.insert(chunk.type).second) continue;
    CAPTURE(chunk.type);
    std::string bytes = a_good_image();
    bytes[chunk.offset + kChunkHeaderSize + chunk.payload / 2] ^= 1;
    write_file(directory / "flipped.snapgdb", bytes);
    // Pages are read when they are wanted; everything else when the image is opened.
    if (chunk.type == "PAGE") {
      check_refused(snapgdb({"core", directory / "flipped.snapgdb", "--pid",
                             std::to_string(good().root), "-o", directory / "core"}),
                    1, {"PAGE", "damaged"});
      CHECK(directory.names() == Words{"flipped.snapgdb"});
    } else {
      check_refused(snapgdb({"show", directory / "flipped.snapgdb"}), 1, {"flipped.snapgdb"});
    }
  }
}

TEST_CASE("a backtrace that is poorer for damage says so") {
  const TempDir directory;
  const std::string path = directory / "x.snapgdb";
  write_file(path, a_good_image());
  const Result whole = snapgdb({"bt", path});
  INFO(whole);
  REQUIRE(whole.ok());
  size_t poorer = 0;
  for (const ChunkPlace& chunk : chunks_of(a_good_image())) {
    if (chunk.type != "PAGE") continue;
    std::string bytes = a_good_image();
    bytes[chunk.offset + kChunkHeaderSize + chunk.payload / 2] ^= 1;
    write_file(path, bytes);
    const Result result = snapgdb({"bt", path});
    if (result.out == whole.out) continue;
    ++poorer;
    INFO(result);
    CHECK(result.status == 3);
    CHECK(contains(result.err, "PAGE chunk"));
  }
  CHECK(poorer > 0);
}

TEST_CASE("what is whole in an image that was cut off can be read on request") {
  const TempDir directory;
  const auto chunks = chunks_of(a_good_image());
  // Without its last two chunks, the index and the tail: nothing is lost but the way in.
  write_file(directory / "cut.snapgdb",
             a_good_image().substr(0, chunks.at(chunks.size() - 2).offset));
  const Result result = snapgdb({"show", "--salvage", directory / "cut.snapgdb", "tree"});
  INFO(result);
  CHECK(result.status == 0);
  CHECK(contains(result.out, "zombies"));
}

TEST_CASE("whatever shows a salvaged image says what it has lost") {
  const TempDir directory;
  std::string image = a_good_image();
  const auto chunks = chunks_of(image);
  const auto process = std::ranges::find(chunks, "PROC", &ChunkPlace::type);
  REQUIRE(process != chunks.end());
  image[process->offset + kChunkHeaderSize + process->payload / 2] ^= 1;
  const std::string path = directory / "x.snapgdb";
  write_file(path, image);
  for (const Words& words : {Words{"show", path, "tree"},
                             {"show", path, "threads"},
                             {"bt", path},
                             {"core", path, "-o", directory / "cores/"}}) {
    Words salvaging = words;
    salvaging.push_back("--salvage");
    const Result result = snapgdb(salvaging);
    INFO(result);
    CHECK(result.status != 0);
    CHECK(contains(result.err, "has lost the PROC chunk at byte"));
  }
  const Result refused = snapgdb({"restore", "--salvage", "--isolated", path});
  INFO(refused);
  CHECK(refused.status == 1);
}

}  // namespace
}  // namespace snapgdb::e2e
