#include <fcntl.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <thread>

#include "core/base/error.h"
#include "core/image/image_reader.h"
#include "tests/unit/image/chunk_walk.h"
#include "tests/unit/image/salvage.h"

using namespace snapgdb;
using namespace snapgdb::test;
using Catch::Matchers::Contains;

TEST_CASE("what was written is read back", "[image]") {
  const TemporaryDirectory directory;
  const auto level = GENERATE(0, 1, 19);
  const std::string path = sample_image(directory, level);
  const auto snapshot = open_snapshot(path);
  CHECK(snapshot->root().name() == "sample");
  CHECK(snapshot->record().reason() == "filled with a");
  CHECK(snapshot->address_space(snapshot->root()).method() == "twin");
  CHECK(snapshot->address_space(snapshot->root()).why_not_better() == "it writes all the time");
  CHECK(memory(*snapshot, 0x1000, kPageSize) == page_of('a'));
  CHECK(memory(*snapshot, 0x2000, kPageSize) == page_of('\0'));
  CHECK(memory(*snapshot, 0x1ffe, 4) == std::string("aa\0\0", 4));
  CHECK(memory(*snapshot, 0x3000, 3) == "aaa");
  CHECK(memory(*snapshot, 0x4000, 6) == std::string("file\0\0", 6));
  CHECK(memory(*snapshot, 0x4ffe, 10).size() == 2);
  CHECK(snapshot->file_contents(*snapshot->embedded_file("/bin/x")) == "file");
  CHECK(complaint(path).empty());
}

TEST_CASE("zero pages and equal pages get no bytes of their own", "[image]") {
  const TemporaryDirectory directory;
  ImageWriter image(OutputFile::create(directory.file("x")), {.level = 0});
  PageWriter pages(image);
  Extents extents;
  add_text(pages, extents, 0, page_of('a') + page_of(0) + page_of('b') + page_of('a'));
  const auto counts = pages.take_counts();
  CHECK(counts.stored == 2);
  CHECK(counts.zero == 1);
  CHECK(counts.shared == 1);
  REQUIRE(extents.all().size() == 4);
  CHECK(extents.all()[3].where == extents.all()[0].where);
}

TEST_CASE("pages are known again while the table of known ones grows, and only themselves",
          "[image]") {
  constexpr uint64_t kPages = 40'000;  // more than twice what the first table is for
  const TemporaryDirectory directory;
  ImageWriter image(OutputFile::create(directory.file("x")), {.level = 0});
  PageWriter pages(image);
  std::vector<std::byte> page(kPageSize);
  Extents first, second;
  const auto add_all = [&](Extents& extents) {
    for (uint64_t i = 0; i < kPages; ++i) {
      put(page, 8 * (i % 500), i + 1);
      pages.add(extents, i * kPageSize, page);
      put(page, 8 * (i % 500), uint64_t{0});
    }
    return pages.take_counts();
  };
  CHECK(add_all(first).stored == kPages);
  CHECK(add_all(second).shared > kPages * 9 / 10);
  const auto ordinal = [](const Extents& extents, uint64_t i) {
    const Extent& extent = *extents.find(i * kPageSize);
    return extent.where + (i - extent.start / kPageSize);
  };
  const uint64_t last = ordinal(first, kPages - 1);
  uint64_t taken_for_others = 0;
  for (uint64_t i = 0; i < kPages; ++i)
    if (ordinal(second, i) != ordinal(first, i) && ordinal(second, i) <= last) ++taken_for_others;
  CHECK(taken_for_others == 0);
}

TEST_CASE("an image holds several snapshots, which share their pages and files", "[image]") {
  const TemporaryDirectory directory;
  const std::string path = sample_image(directory, 1, "aba");
  CHECK(Image::open(path)->snapshots() == std::vector<uint64_t>{1, 2, 3});
  CHECK(open_snapshot(path)->record().sequence() == 3);
  CHECK(memory(*open_snapshot(path + "@2"), 0x1000, 1) == "b");
  CHECK(memory(*open_snapshot(path + "@-3"), 0x1000, 1) == "a");
  CHECK(memory(*open_snapshot(path + "@3"), 0x4000, 4) == "file");
  CHECK_THROWS_WITH(open_snapshot(path + "@4"), Contains("it has 3 snapshots"));
  CHECK_THROWS_WITH(open_snapshot(path + "@-4"), Contains("it has 3 snapshots"));
}

TEST_CASE("a snapshot may be added after the image has its name", "[image]") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("timeline.snapgdb");
  ImageWriter image(OutputFile::create(path));
  PageWriter pages(image);
  write_sample(image, pages, 'a');
  image.commit();
  CHECK(Image::open(path)->snapshots().size() == 1);
  write_sample(image, pages, 'b');
  image.commit();
  CHECK(Image::open(path)->snapshots().size() == 2);
  CHECK(memory(*open_snapshot(path + "@1"), 0x1000, 1) == "a");
  CHECK(complaint(path).empty());
}

TEST_CASE("an image may come through a pipe", "[image]") {
  const TemporaryDirectory directory;
  const std::string path = sample_image(directory), fifo = directory.file("fifo");
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  std::jthread feeder([&] { write_file(fifo, read_file(path)); });
  CHECK(memory(*open_snapshot(fifo), 0x1000, 1) == "a");
}

TEST_CASE("nothing appears under the image's name before it is complete", "[image]") {
  const TemporaryDirectory directory;
  {
    ImageWriter image(OutputFile::create(directory.file("x.snapgdb")));
    PageWriter pages(image);
    write_sample(image, pages, 'a');
    CHECK(directory.entries() == 0);
  }
  CHECK(directory.entries() == 0);
}

TEST_CASE("an image replaces an older one, is private, and leaves nothing beside it", "[image]") {
  const TemporaryDirectory directory;
  write_file(directory.file("sample.snapgdb"), "older");
  const std::string path = sample_image(directory);
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  CHECK(directory.entries() == 1);
  CHECK(complaint(path).empty());
}

TEST_CASE("a full disk is an error of the writer", "[image]") {
  ImageWriter image(OutputFile::create("/dev/null"), {.level = 0});
  CHECK_NOTHROW(image.commit());
  CHECK_THROWS_WITH(
      [] {
        ImageWriter full(OutputFile::create("/dev/full"), {.level = 0});
        PageWriter pages(full);
        write_sample(full, pages, 'a');
        full.commit();
      }(),
      Contains("No space left on device"));
}

TEST_CASE("an image that was cut off says so, wherever it was cut", "[image]") {
  const TemporaryDirectory directory;
  const std::string whole = read_file(sample_image(directory));
  const std::string path = directory.file("cut");
  for (size_t size = 0; size < whole.size(); size += 7) {
    write_file(path, whole.substr(0, size));
    CAPTURE(size);
    if (size < ImageHeader::kSize)
      CHECK_THAT(complaint(path), Contains("not a snapgdb image"));
    else
      CHECK_THAT(complaint(path), Contains("cut off") || Contains("damaged"));
  }
}

TEST_CASE("what is whole in a cut-off image can be salvaged", "[image]") {
  const TemporaryDirectory directory;
  check_salvaged_wherever_cut(sample_image(directory));
}

TEST_CASE("pages of an embedded file that are lost are told, not read", "[image]") {
  const TemporaryDirectory directory;
  const std::string path = sample_image(directory, 0);
  std::string bytes = read_file(path);
  bytes[bytes.find(std::string("file\0\0\0\0", 8))] = 'F';  // in its PAGE chunk
  write_file(path, bytes);
  const auto snapshot = open_snapshot(path, {.salvage = true});
  const pb::Process& process = snapshot->root();
  CHECK(snapshot->captured_bytes(process, 0x1000, 0x5000) == 3 * kPageSize);
  const auto lacks = snapshot->missing_memory(process);
  REQUIRE(lacks.size() == 1);
  CHECK(lacks[0].bytes == kPageSize);
  CHECK_THAT(lacks[0].reason, Contains("it lies in /bin/x, and is lost"));
  CHECK(snapshot->missing_reason(process, 0x4000) == lacks[0].reason);
  CHECK(memory(*snapshot, 0x3ffe, 4) == "aa");
  const pb::FileRecord& file = *snapshot->embedded_file("/bin/x");
  CHECK_THROWS_WITH(snapshot->file_contents(file),
                    Contains("cannot read /bin/x") && Contains("lost"));
  uint64_t lost = 0;
  CHECK(snapshot->file_contents(file, &lost) == std::string(4, '\0'));
  CHECK(lost == 4);
}

TEST_CASE("an image that is overwritten while it is open reads as it was, or as damaged",
          "[image]") {
  const TemporaryDirectory directory;
  const std::string path = sample_image(directory, GENERATE(0, 1));
  const auto read = open_snapshot(path), unread = open_snapshot(path);
  CHECK(memory(*read, 0x1000, kPageSize) == page_of('a'));
  std::string bytes = read_file(path);
  const auto image = std::as_writable_bytes(std::span(bytes));
  for_each_chunk(image, [&](size_t at, size_t stored) {
    if (get<uint32_t>(image, at) == kPageChunk)
      std::ranges::fill(image.subspan(at + ChunkHeader::kSize, stored), std::byte{'x'});
  });
  write_file(path, bytes);  // the same file, not a new one of its name
  CHECK(memory(*read, 0x1000, kPageSize) == page_of('a'));
  CHECK_THROWS_WITH(memory(*unread, 0x1000, 1), Contains("a PAGE chunk is damaged"));
}

TEST_CASE("an image that is cut off while it is open is an error", "[image]") {
  const TemporaryDirectory directory;
  const std::string path = sample_image(directory, GENERATE(0, 1));
  const auto snapshot = open_snapshot(path);
  std::filesystem::resize_file(path, ImageHeader::kSize);
  CHECK_THROWS_WITH(memory(*snapshot, 0x1000, 1), Contains("cut off after it had been opened"));
}

TEST_CASE("a snapshot with two records of itself is refused", "[image]") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("x");
  {
    ImageWriter image(OutputFile::create(path));
    PageWriter pages(image);
    write_sample(image, pages, 'a');
    pb::SnapshotRecord record;
    record.set_sequence(1);
    record.set_root_pid(10);
    image.add(kSnapshotChunk, record);
    image.commit();
  }
  CHECK_THAT(complaint(path), Contains("two records of snapshot 1"));
}

TEST_CASE("every flipped byte is noticed", "[image]") {
  const TemporaryDirectory directory;
  const std::string whole = read_file(sample_image(directory));
  const std::string path = directory.file("flipped");
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string bytes = whole;
    bytes[i] = static_cast<char>(bytes[i] ^ 0x10);
    write_file(path, bytes);
    CAPTURE(i);
    CHECK_FALSE(complaint(path).empty());
  }
}

TEST_CASE("chunks cannot change places", "[image]") {
  const TemporaryDirectory directory;
  const std::string path = sample_image(directory, 0, "aa");
  std::string bytes = read_file(path);
  // Both snapshots' PROC chunks have the same length and content but for their places.
  const size_t first = bytes.find("PROC"), second = bytes.find("PROC", first + 1);
  REQUIRE(second != std::string::npos);
  for (size_t i = 0; i < ChunkHeader::kSize; ++i) std::swap(bytes[first + i], bytes[second + i]);
  write_file(path, bytes);
  CHECK_THAT(complaint(path), Contains("damaged"));
}

TEST_CASE("an image of a newer version asks for a newer snapgdb", "[image]") {
  const TemporaryDirectory directory;
  std::string bytes = read_file(sample_image(directory));
  bytes[8] = 2;
  write_file(directory.file("newer"), bytes);
  CHECK_THAT(complaint(directory.file("newer")),
             Contains("format is version 2") && Contains("use a newer snapgdb"));
}

TEST_CASE("a chunk of an unknown kind is skipped unless it is required", "[image]") {
  // Chunks are made required by the writer; an optional one is what a later version may add.
  const TemporaryDirectory directory;
  const std::string path = directory.file("x");
  {
    ImageWriter image(OutputFile::create(path), {.level = 0});
    PageWriter pages(image);
    write_sample(image, pages, 'a');
    image.add(chunk_type("NEWS"), pb::Process());
    image.commit();
  }
  CHECK_THAT(complaint(path), Contains("NEWS chunks"));

  std::string bytes = read_file(path);
  bytes[bytes.find("NEWS") + 4] = 0;  // no longer required
  mend_checksums(std::as_writable_bytes(std::span(bytes)));
  write_file(path, bytes);
  CHECK(complaint(path).empty());
}

TEST_CASE("what is not an image is told from one", "[image]") {
  const TemporaryDirectory directory;
  write_file(directory.file("text"), std::string(100, 'x'));
  write_file(directory.file("mangled"), "\x89SGD\n\x1a\n" + std::string(100, '\0'));
  CHECK_THAT(complaint(directory.file("text")), Contains("it is not a snapgdb image"));
  CHECK_THAT(complaint(directory.file("mangled")), Contains("transfer it as binary"));
  CHECK_THAT(complaint(directory.file("nothing")), Contains("No such file"));
  CHECK_THAT(complaint("/tmp"), Contains("Is a directory"));
}

TEST_CASE("IMG@K names a snapshot, unless there is a file of that name") {
  CHECK(parse_snapshot_name("x.snapgdb").k == -1);
  CHECK(parse_snapshot_name("x.snapgdb@3").k == 3);
  CHECK(parse_snapshot_name("x@y@-2").path == "x@y");
  CHECK(parse_snapshot_name("x@0").path == "x");
  CHECK(parse_snapshot_name("x@99999999999999999999").path == "x");
  CHECK(parse_snapshot_name("x@-").path == "x@-");
  CHECK(parse_snapshot_name("user@host").path == "user@host");
}
