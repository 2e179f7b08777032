#include "elfconv/core_memory.h"

#include <elf.h>
#include <sys/mman.h>

#include <catch2/catch.hpp>

#include "core/base/error.h"
#include "core/image/snapshot_builder.h"

using namespace snapgdb;

namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;

std::string reason_at(const CoreMemory& memory, uint64_t address) {
  for (const MissingMemory& missing : memory.missing)
    if (address >= missing.address && address < missing.end()) return missing.reason;
  return "";
}

bool holds(const CoreMemory& memory, uint64_t address) {
  for (const LoadSegment& segment : memory.segments)
    if (address >= segment.address && address < segment.end()) return true;
  return false;
}

}  // namespace

TEST_CASE("a mapping becomes one segment with the rights of the mapping") {
  SnapshotBuilder builder;
  builder.process(10)
      .thread(10)
      .memory(0x1000, std::string(8192, 'x'), PROT_READ | PROT_EXEC)
      .memory(0x3000, "y", PROT_READ | PROT_WRITE)
      .memory(0x4000, "guard", PROT_NONE);
  const auto snapshot = builder.build();
  const CoreMemory memory = divide_memory(*snapshot, snapshot->root());

  REQUIRE(memory.segments.size() == 3);
  CHECK(memory.missing.empty());
  CHECK(memory.segments[0].address == 0x1000);
  CHECK(memory.segments[0].size == 0x2000);
  CHECK(memory.segments[0].flags == (PF_R | PF_X));
  CHECK(memory.segments[1].flags == (PF_R | PF_W));
  CHECK(memory.segments[2].flags == 0);
}

TEST_CASE("small zeros within a mapping do not divide it") {
  SnapshotBuilder builder;
  auto& process = builder.process(10).thread(10);
  process.memory(0x1000, "x", PROT_READ).zeros(0x2000, 0x1000).memory(0x3000, "y", PROT_READ);
  auto* mappings = process.record().mutable_mappings();
  mappings->Mutable(0)->set_end(0x4000);  // one mapping over all three extents
  mappings->DeleteSubrange(1, 2);
  const auto snapshot = builder.build();
  const CoreMemory memory = divide_memory(*snapshot, snapshot->root());

  REQUIRE(memory.segments.size() == 1);
  CHECK(memory.segments[0].size == 0x3000);
}

TEST_CASE("memory that was not captured divides its mapping and is named with its reason") {
  SnapshotBuilder builder;
  auto& process = builder.process(10).thread(10);
  process.memory(0x1000, "x", PROT_READ, "/lib/x")
      .unavailable(0x2000, 0x2000, "device memory")
      .memory(0x4000, "y", PROT_READ);
  auto* mappings = process.record().mutable_mappings();
  mappings->Mutable(0)->set_end(0x6000);  // its last page has no extent at all
  mappings->DeleteSubrange(1, 2);
  const auto snapshot = builder.build();
  const CoreMemory memory = divide_memory(*snapshot, snapshot->root());

  REQUIRE(memory.segments.size() == 2);
  CHECK(memory.segments[0].size == 0x1000);
  CHECK(memory.segments[1].address == 0x4000);
  CHECK(memory.segments[1].size == 0x1000);
  REQUIRE(memory.missing.size() == 2);
  CHECK(memory.missing[0].mapping == "/lib/x");
  CHECK(reason_at(memory, 0x3fff) == "device memory");
  CHECK(reason_at(memory, 0x5000) == "not captured");
}

TEST_CASE("pages behind the end of a mapped file are not in the core, and nothing is lost") {
  SnapshotBuilder builder;
  const uint32_t file = builder.file("/data/five", "five!");
  builder.process(10).thread(10).mapped_file(0x10000, 0x4000, file, 0, PROT_READ);
  const auto snapshot = builder.build();
  const CoreMemory memory = divide_memory(*snapshot, snapshot->root());

  CHECK(holds(memory, 0x10fff));
  CHECK_FALSE(holds(memory, 0x11000));
  REQUIRE(memory.missing.size() == 1);
  CHECK_FALSE(memory.missing[0].lost);
}

TEST_CASE("a file that is not in the image is missing, and said to be in the file") {
  SnapshotBuilder builder;
  const uint32_t file = builder.file("/data/big", "big");
  builder.process(10).thread(10).mapped_file(0x10000, 0x1000, file, 0, PROT_READ);
  Snapshot::Contents contents;
  const auto whole = builder.build();
  contents.record = whole->record();
  contents.processes = {whole->processes().begin(), whole->processes().end()};
  contents.address_spaces.emplace(10, whole->extents(whole->root()));
  contents.files = {whole->files().begin(), whole->files().end()};
  contents.files[0].set_embedded(false);
  contents.files[0].set_why_not_embedded("too large");
  const Snapshot snapshot(std::move(contents));
  const CoreMemory memory = divide_memory(snapshot, snapshot.root());

  CHECK(memory.segments.empty());
  REQUIRE(memory.missing.size() == 1);
  CHECK(memory.missing[0].in_file);
  CHECK(memory.missing[0].reason.find("too large") != std::string::npos);
}

TEST_CASE("nothing is lost where program or kernel keep memory from everybody") {
  SnapshotBuilder builder;
  builder.process(10).thread(10).unavailable(0x7000, 0x2000, "");
  const auto whole = builder.build();
  Snapshot::Contents contents;
  contents.record = whole->record();
  contents.processes = {whole->processes().begin(), whole->processes().end()};
  Extents& extents = contents.address_spaces[10];
  extents.append_missing(0x7000, 0x1000, "a guard page", KeptBy::kKernel);
  extents.append_missing(0x8000, 0x1000, "the kernel refuses to read it");
  const Snapshot snapshot(std::move(contents));
  const CoreMemory memory = divide_memory(snapshot, snapshot.root());
  CHECK(memory.segments.empty());
  REQUIRE(memory.missing.size() == 2);
  CHECK_FALSE(memory.missing[0].lost);
  CHECK(memory.missing[1].lost);
}

TEST_CASE("large runs of zeros share one hole, so that the file stays small") {
  SnapshotBuilder builder;
  builder.process(10)
      .thread(10)
      .memory(0x1000, "x", PROT_READ)
      .zeros(0x10000000, 64 * kMiB)
      .zeros(0x20000000, 40 * kMiB)
      .zeros(0x10000000000, 20000 * kGiB);  // what AddressSanitizer reserves
  const auto snapshot = builder.build();
  CoreMemory memory = divide_memory(*snapshot, snapshot->root());
  const uint64_t end = place_segments(memory.segments, 0x1234);

  CHECK(memory.segments.size() < 5000);
  CHECK(end <= 0x3000 + 8 * kGiB);
  uint64_t zeros = 0;
  for (const LoadSegment& segment : memory.segments) {
    CHECK(segment.offset + segment.size <= end);
    if (segment.zeros) zeros += segment.size;
  }
  CHECK(zeros == 104 * kMiB + 20000 * kGiB);
  CHECK(memory.segments[0].offset == 0x2000);
}

TEST_CASE("data segments are placed one after the other at page boundaries") {
  std::vector<LoadSegment> segments{{0x1000, 0x2000}, {0x8000, 0x1000}};
  CHECK(place_segments(segments, 100) == 0x4000);
  CHECK(segments[0].offset == 0x1000);
  CHECK(segments[1].offset == 0x3000);
}

TEST_CASE("probing finds the pages that a damaged image has lost") {
  class LosingPages : public PageStore {
    void read_page(uint64_t ordinal, std::span<std::byte, kPageSize> out) const override {
      if (ordinal == 2) throw Error("cannot read the image", "a PAGE chunk is damaged");
      std::ranges::fill(out, std::byte{'x'});
    }
  };
  SnapshotBuilder builder;
  builder.process(10).thread(10).memory(0x1000, std::string(5 * kPageSize, 'x'), PROT_READ);
  const auto whole = builder.build();
  Snapshot::Contents contents;
  contents.record = whole->record();
  contents.processes = {whole->processes().begin(), whole->processes().end()};
  contents.address_spaces.emplace(10, whole->extents(whole->root()));
  contents.pages = std::make_shared<LosingPages>();
  const Snapshot snapshot(std::move(contents));

  const CoreMemory memory = divide_memory(snapshot, snapshot.root(), true);
  REQUIRE(memory.missing.size() == 1);
  CHECK(memory.missing[0].address == 0x3000);
  CHECK(memory.missing[0].size == kPageSize);
  CHECK(memory.missing[0].reason.starts_with("damaged"));
  CHECK(memory.segments.size() == 2);
}

TEST_CASE(
    "what a salvaged image has lost of a mapped file is missing, and said to be in the file") {
  SnapshotBuilder builder;
  const uint32_t file = builder.file("/lib/x", std::string(3 * kPageSize, 'x'));
  builder.process(10).thread(10).mapped_file(0x10000, 3 * kPageSize, file, 0, PROT_READ);
  Snapshot::Contents contents = builder.contents();
  Extents& salvaged = contents.salvaged_files[file];
  salvaged.append({0, kPageSize, pb::SOURCE_STORED, 0, 0});
  salvaged.append_missing(kPageSize, kPageSize, "lost");
  salvaged.append({2 * kPageSize, kPageSize, pb::SOURCE_STORED, 2, 0});
  const Snapshot snapshot(std::move(contents));
  const CoreMemory memory = divide_memory(snapshot, snapshot.root());

  CHECK(memory.segments.size() == 2);
  REQUIRE(memory.missing.size() == 1);
  CHECK(memory.missing[0].address == 0x11000);
  CHECK(memory.missing[0].size == kPageSize);
  CHECK(memory.missing[0].in_file);
  CHECK(memory.missing[0].lost);
}
