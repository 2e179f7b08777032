#include <sys/mman.h>

#include <catch2/catch.hpp>

#include "core/base/error.h"
#include "core/image/snapshot_builder.h"

using namespace snapgdb;
using Catch::Matchers::Contains;

namespace {

std::string read(const Snapshot& snapshot, uint64_t address, size_t size) {
  std::string bytes(size, '?');
  bytes.resize(
      snapshot.read_memory(snapshot.root(), address, std::as_writable_bytes(std::span(bytes))));
  return bytes;
}

}  // namespace

TEST_CASE("memory is read across mappings and ends where nothing is known") {
  SnapshotBuilder builder;
  builder.process(10)
      .thread(10)
      .memory(0x1000, std::string(kPageSize, 'a'), PROT_READ)
      .zeros(0x2000, kPageSize)
      .unavailable(0x3000, kPageSize, "refused");
  const auto snapshot = builder.build();
  CHECK(read(*snapshot, 0x1ffe, 4) == std::string("aa\0\0", 4));
  CHECK(read(*snapshot, 0x2ffe, 4).size() == 2);
  CHECK(read(*snapshot, 0x3000, 1).empty());
  CHECK(read(*snapshot, 0x9000, 1).empty());
  CHECK(snapshot->missing_reason(snapshot->root(), 0x3000) == "refused");
  CHECK(snapshot->missing_reason(snapshot->root(), 0x9000) == "not mapped");
  CHECK(snapshot->missing_reason(snapshot->root(), 0x1000).empty());
  CHECK(snapshot->captured_bytes(snapshot->root(), 0x1000, 0x4000) == 2 * kPageSize);
}

TEST_CASE("what is missing of a process's memory is told by reason, with who keeps it") {
  SnapshotBuilder builder;
  const uint32_t small = builder.file("/small", "x"), large = builder.file("/large", "x");
  builder.process(10)
      .thread(10)
      .mapped_file(0x1000, kPageSize, small, 0, PROT_READ)
      .unavailable(0x2000, kPageSize, "a device", KeptBy::kKernel)
      .unavailable(0x3000, kPageSize, "its wish", KeptBy::kProgram)
      .zeros(0x4000, kPageSize)
      .unavailable(0x5000, 2 * kPageSize, "its wish", KeptBy::kProgram)
      .mapped_file(0x7000, kPageSize, large, 0, PROT_READ)
      .unavailable(0x8000, kPageSize, "refused");
  Snapshot::Contents contents = builder.contents();
  contents.files[1].set_embedded(false);
  contents.files[1].set_why_not_embedded("too large");
  const Snapshot snapshot(std::move(contents));

  std::vector<std::tuple<std::string, KeptBy, uint64_t>> lacks;
  for (const auto& lack : snapshot.missing_memory(snapshot.root()))
    lacks.emplace_back(lack.reason, lack.kept_by, lack.bytes / kPageSize);
  CHECK(lacks == decltype(lacks){{"a device", KeptBy::kKernel, 1},
                                 {"it lies in /large, which is not in the image: too large",
                                  KeptBy::kNobody, 1},
                                 {"its wish", KeptBy::kProgram, 3},
                                 {"refused", KeptBy::kNobody, 1}});
}

TEST_CASE("the last address of all can be asked for") {
  SnapshotBuilder builder;
  builder.process(10).thread(10).memory(0x1000, "a", PROT_READ);
  const auto snapshot = builder.build();
  CHECK(read(*snapshot, UINT64_MAX, 2).empty());
  CHECK(read(*snapshot, UINT64_MAX - kPageSize + 1, kPageSize).empty());
}

TEST_CASE("a mapped file reads as the file, then zeros to the end of its page, then nothing") {
  SnapshotBuilder builder;
  const uint32_t file = builder.file("/lib/x", "0123456789");
  builder.process(10).thread(10).mapped_file(0x1000, 2 * kPageSize, file, 0, PROT_READ);
  const auto snapshot = builder.build();
  CHECK(read(*snapshot, 0x1008, 4) == std::string("89\0\0", 4));
  CHECK(read(*snapshot, 0x1000, 3 * kPageSize).size() == kPageSize);
  CHECK_THAT(snapshot->missing_reason(snapshot->root(), 0x2000), Contains("beyond the end"));
}

TEST_CASE("a file is found by path and by build-id") {
  SnapshotBuilder builder;
  builder.file("/lib/x", "x", pb::FILE_LIBRARY, "id");
  builder.file("/lib/debug/x", "debug", pb::FILE_DEBUG, "id");
  builder.process(10).thread(10);
  const auto snapshot = builder.build();
  CHECK(snapshot->file_contents(*snapshot->embedded_file("/lib/x")) == "x");
  CHECK(snapshot->file_contents(*snapshot->debug_file("id")) == "debug");
  CHECK(snapshot->embedded_file("/lib/y") == nullptr);
  CHECK(snapshot->debug_file("") == nullptr);
}

TEST_CASE("records that contradict each other are refused") {
  const auto build = [](auto change) {
    SnapshotBuilder builder;
    auto& process = builder.process(10).thread(10).memory(0x1000, "a", PROT_READ);
    change(builder, process.record());
    return builder.build();
  };
  CHECK_NOTHROW(build([](auto&, auto&) {}));
  CHECK_THROWS_WITH(build([](auto& builder, auto&) { builder.process(10); }), Contains("twice"));
  CHECK_THROWS_WITH(build([](auto& builder, auto&) { builder.record().set_root_pid(11); }),
                    Contains("root process"));
  CHECK_THROWS_WITH(
      build([](auto&, auto& process) { process.mutable_threads(0)->set_registers("short"); }),
      Contains("broken registers"));
  CHECK_THROWS_WITH(build([](auto&, auto& process) {
                      pb::Vma& vma = *process.add_mappings();
                      vma.set_start(0x1000);
                      vma.set_end(0x3000);
                    }),
                    Contains("overlap"));
}

TEST_CASE("mappings that no kernel would make are refused") {
  const auto build = [](uint64_t start, uint64_t end) {
    SnapshotBuilder builder;
    pb::Vma& vma = *builder.process(10).thread(10).record().add_mappings();
    vma.set_start(start);
    vma.set_end(end);
    return builder.build();
  };
  CHECK_NOTHROW(build(0x1000, 0x2000));
  CHECK_NOTHROW(build(0xffff'ffff'ff60'0000, 0xffff'ffff'ff60'1000));  // vsyscall
  const auto [start, end] = GENERATE(table<uint64_t, uint64_t>({{0x1000, 0x1000},
                                                                {0x2000, 0x1000},
                                                                {0x1800, 0x3000},
                                                                {0x1000, 0x2fff},
                                                                {0, uint64_t{1} << 57},
                                                                {0x1000, UINT64_MAX - 0xfff}}));
  CAPTURE(start, end);
  CHECK_THROWS_WITH(build(start, end), Contains("cannot be"));
}
