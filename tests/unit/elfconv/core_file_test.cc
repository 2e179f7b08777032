#include "elfconv/core_file.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <fstream>

#include "core/base/error.h"
#include "core/image/snapshot_builder.h"
#include "tests/unit/elfconv/core_view.h"

using namespace snapgdb;
using namespace snapgdb::test;

namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

std::string pattern(size_t size, unsigned seed) {
  std::string bytes(size, '\0');
  uint32_t state = seed;
  for (char& c : bytes) c = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  return bytes;
}

uint64_t on_disk(const std::string& path) {
  struct stat status {};
  ::stat(path.c_str(), &status);
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

}  // namespace

TEST_CASE("a core is an x86-64 core file without sections") {
  const TemporaryDirectory directory;
  SnapshotBuilder builder;
  builder.process(10).thread(10).memory(0x1000, "x", PROT_READ);
  const auto snapshot = builder.build();
  const WrittenCore written = write_core(*snapshot, snapshot->root(), directory / "core");
  const CoreView core(directory / "core");
  const GElf_Ehdr header = core.header();
  CHECK(header.e_type == ET_CORE);
  CHECK(header.e_machine == EM_X86_64);
  CHECK(header.e_ident[EI_CLASS] == ELFCLASS64);
  CHECK(header.e_ident[EI_DATA] == ELFDATA2LSB);
  CHECK(header.e_ident[EI_OSABI] == ELFOSABI_NONE);
  CHECK(header.e_shnum == 0);
  CHECK(header.e_shoff == 0);
  CHECK(core.segments()[0].p_type == PT_NOTE);
  CHECK(std::filesystem::file_size(directory / "core") == written.size);
  CHECK(std::filesystem::status(directory / "core").permissions() ==
        (std::filesystem::perms::owner_read | std::filesystem::perms::owner_write));
}

TEST_CASE("memory is in the core byte by byte, wherever its pages come from") {
  const TemporaryDirectory directory;
  const std::string first = pattern(9 * kMiB, 1), second = pattern(3 * kPageSize, 2);
  const std::string library = pattern(2 * kPageSize + 100, 3);
  SnapshotBuilder builder;
  const uint32_t file = builder.file("/lib/x", library, pb::FILE_LIBRARY);
  builder.process(10)
      .thread(10)
      .memory(0x100000, first, PROT_READ | PROT_WRITE)  // larger than a block
      .memory(0x20000000, second, PROT_READ)
      .mapped_file(0x30000000, 2 * kPageSize, file, kPageSize, PROT_READ)
      .zeros(0x40000000, 5 * kMiB)
      .zeros(0x50000000, 64 * kMiB);
  const auto snapshot = builder.build();
  write_core(*snapshot, snapshot->root(), directory / "core");

  const CoreView core(directory / "core");
  CHECK(core.memory(0x100000, first.size()).value() == first);
  CHECK(core.memory(0x20000000, second.size()).value() == second);
  std::string tail = library.substr(kPageSize);
  tail.resize(2 * kPageSize);  // the rest of the last page reads as zeros
  CHECK(core.memory(0x30000000, tail.size()).value() == tail);
  CHECK(core.memory(0x40000000, 5 * kMiB).value() == std::string(5 * kMiB, '\0'));
  CHECK(core.memory(0x50000000 + 63 * kMiB, kMiB).value() == std::string(kMiB, '\0'));
}

TEST_CASE("data between zeros keeps its place") {
  const TemporaryDirectory directory;
  SnapshotBuilder builder;
  auto& process = builder.process(10).thread(10);
  std::string expected;
  for (uint64_t page = 0; page < 40; ++page) {
    const uint64_t address = 0x10000 + page * kPageSize;
    const bool zeros = page % 5 < 2;
    if (zeros)
      process.zeros(address, kPageSize);
    else
      process.memory(address, pattern(kPageSize, static_cast<unsigned>(page)), PROT_READ);
    expected +=
        zeros ? std::string(kPageSize, '\0') : pattern(kPageSize, static_cast<unsigned>(page));
  }
  auto* mappings = process.record().mutable_mappings();
  mappings->Mutable(0)->set_end(0x10000 + 40 * kPageSize);
  mappings->DeleteSubrange(1, 39);
  const auto snapshot = builder.build();
  const WrittenCore written = write_core(*snapshot, snapshot->root(), directory / "core");

  const CoreView core(directory / "core");
  CHECK(core.loads().size() == 1);
  CHECK(core.memory(0x10000, expected.size()).value() == expected);
  CHECK(written.data < 26 * kPageSize);
}

TEST_CASE("zeros take no room on the disk") {
  const TemporaryDirectory directory;
  SnapshotBuilder builder;
  builder.process(10).thread(10).zeros(0x1000000, 30 * kMiB).zeros(0x10000000, uint64_t{1} << 44);
  const auto snapshot = builder.build();
  const WrittenCore written = write_core(*snapshot, snapshot->root(), directory / "core");
  CHECK(on_disk(directory / "core") < 2 * kMiB);
  CHECK(written.size < 6000 * kMiB);
}

TEST_CASE("each range of memory has the rights of its mapping, down to none") {
  const TemporaryDirectory directory;
  SnapshotBuilder builder;
  builder.process(10)
      .thread(10)
      .memory(0x1000, "text", PROT_READ | PROT_EXEC)
      .memory(0x2000, "data", PROT_READ | PROT_WRITE)
      .memory(0x3000, "guard", PROT_NONE);
  const auto snapshot = builder.build();
  write_core(*snapshot, snapshot->root(), directory / "core");
  const std::vector<GElf_Phdr> loads = CoreView(directory / "core").loads();
  REQUIRE(loads.size() == 3);
  CHECK(loads[0].p_flags == (PF_R | PF_X));
  CHECK(loads[1].p_flags == (PF_R | PF_W));
  CHECK(loads[2].p_flags == 0);
}

TEST_CASE("missing memory is absent from the core, and reported") {
  const TemporaryDirectory directory;
  SnapshotBuilder builder;
  auto& process = builder.process(10).thread(10);
  process.memory(0x1000, "before", PROT_READ)
      .unavailable(0x2000, 3 * kPageSize, "a device")
      .memory(0x5000, "behind", PROT_READ)
      .unavailable(0x6000, kPageSize, "a device");
  const auto snapshot = builder.build();
  const WrittenCore written = write_core(*snapshot, snapshot->root(), directory / "core");
  const CoreView core(directory / "core");
  CHECK(core.memory(0x1000, 6).value() == "before");
  CHECK(core.memory(0x5000, 6).value() == "behind");
  CHECK_FALSE(core.memory(0x2000, 1));
  CHECK_FALSE(core.memory(0x1fff, 2));
  for (const GElf_Phdr& load : core.loads()) CHECK(load.p_filesz == load.p_memsz);
  REQUIRE_FALSE(written.missing.empty());
  CHECK(written.missing[0] == "16.0 KiB of anonymous memory (2 ranges): a device");
}

TEST_CASE("more mappings than the ELF header can count") {
  const TemporaryDirectory directory;
  for (const uint64_t mappings : {0xfffdu, 0xfffeu, 0xffffu, 70000u}) {
    SnapshotBuilder builder;
    auto& process = builder.process(10).thread(10);
    for (uint64_t i = 0; i < mappings; ++i) {
      if (i % 1000 == 7)
        process.memory(0x100000 + 2 * i * kPageSize, std::to_string(i), PROT_READ);
      else
        process.zeros(0x100000 + 2 * i * kPageSize, kPageSize);
    }
    const auto snapshot = builder.build();
    write_core(*snapshot, snapshot->root(), directory / "core");
    const CoreView core(directory / "core");
    CHECK(core.loads().size() == mappings);
    CHECK((core.header().e_phnum == PN_XNUM) == (mappings + 1 >= PN_XNUM));
    CHECK(core.memory(0x100000 + 2 * 65007 * kPageSize, 5).value() == "65007");
    CHECK(core.threads().size() == 1);
  }
}

TEST_CASE("shared memory is in the core of each process that maps it") {
  const TemporaryDirectory directory;
  SnapshotBuilder builder;
  for (const int32_t pid : {10, 11}) {
    auto& process = builder.process(pid).thread(pid).memory(0x1000, "shared", PROT_READ);
    process.record().mutable_mappings(0)->set_shared(true);
    process.record().mutable_mappings(0)->set_deleted(true);
  }
  const auto snapshot = builder.build();
  for (const pb::Process& process : snapshot->processes()) {
    write_core(*snapshot, process, directory / std::to_string(process.pid()));
    CHECK(CoreView(directory / std::to_string(process.pid())).memory(0x1000, 6).value() ==
          "shared");
  }
}

TEST_CASE("a core replaces an older one, but never a directory or a device") {
  const TemporaryDirectory directory;
  SnapshotBuilder builder;
  builder.process(10).thread(10).memory(0x1000, "x", PROT_READ);
  const auto snapshot = builder.build();
  std::ofstream(directory / "core") << "old";
  write_core(*snapshot, snapshot->root(), directory / "core");
  CHECK(CoreView(directory / "core").loads().size() == 1);
  CHECK_THROWS_WITH(write_core(*snapshot, snapshot->root(), directory.path()),
                    Catch::Contains("it is a directory"));
  ::mkfifo((directory / "fifo").c_str(), 0600);
  CHECK_THROWS_WITH(write_core(*snapshot, snapshot->root(), directory / "fifo"),
                    Catch::Contains("not a regular file"));
  CHECK_THROWS_WITH(write_core(*snapshot, snapshot->root(), directory / "no/core"),
                    Catch::Contains("No such file or directory"));
}

TEST_CASE("a core that does not fit leaves nothing behind") {
  const TemporaryDirectory directory;
  SnapshotBuilder builder;
  builder.process(10).thread(10).memory(0x1000, pattern(kMiB, 1), PROT_READ);
  const auto snapshot = builder.build();
  rlimit old{};
  ::getrlimit(RLIMIT_FSIZE, &old);
  const rlimit small{kMiB / 2, old.rlim_max};
  std::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &small);
  CHECK_THROWS_WITH(write_core(*snapshot, snapshot->root(), directory / "core"),
                    Catch::Contains("File too large"));
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, SIG_DFL);
  CHECK(directory.files().empty());
}

TEST_CASE("a page that cannot be read is an error, and no core is left") {
  const TemporaryDirectory directory;
  SnapshotBuilder builder;
  builder.process(10).thread(10).memory(0x1000, "x", PROT_READ);
  const auto whole = builder.build();
  class NoPages : public PageStore {
    void read_page(uint64_t, std::span<std::byte, kPageSize>) const override {
      throw Error("cannot read the image", "a PAGE chunk is damaged");
    }
  };
  Snapshot::Contents contents;
  contents.record = whole->record();
  contents.processes = {whole->processes().begin(), whole->processes().end()};
  contents.address_spaces.emplace(10, whole->extents(whole->root()));
  contents.pages = std::make_shared<NoPages>();
  const Snapshot snapshot(std::move(contents));
  CHECK_THROWS_WITH(write_core(snapshot, snapshot.root(), directory / "core"),
                    Catch::Contains("a PAGE chunk is damaged"));
  CHECK(directory.files().empty());

  const WrittenCore written =
      write_core(snapshot, snapshot.root(), directory / "core", {.salvage = true});
  REQUIRE_FALSE(written.missing.empty());
  CHECK(written.missing[0].find("damaged") != std::string::npos);
  CHECK(CoreView(directory / "core").loads().empty());
}

TEST_CASE("equal snapshots make equal cores") {
  const TemporaryDirectory directory;
  SnapshotBuilder builder;
  builder.process(10).thread(10).thread(11).memory(0x1000, pattern(100000, 9), PROT_READ, "/x");
  const auto snapshot = builder.build();
  const auto bytes = [&](const std::string& name) {
    write_core(*snapshot, snapshot->root(), directory / name);
    std::ifstream file(directory / name);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  CHECK(bytes("a") == bytes("b"));
}

TEST_CASE("a zombie has no core") {
  SnapshotBuilder builder;
  builder.process(10).thread(10);
  auto& zombie = builder.process(11);
  zombie.record().set_state("Z");
  zombie.record().set_address_space(0);
  const auto snapshot = builder.build();
  CHECK(why_no_core(*snapshot, snapshot->root()).empty());
  CHECK(why_no_core(*snapshot, *snapshot->process(11)).find("zombie") != std::string::npos);
}

TEST_CASE("zeros of a mapped file take no room on the disk") {
  const TemporaryDirectory directory;
  constexpr uint64_t kSize = 256 * kMiB;
  const std::string start = pattern(kPageSize, 1);
  SnapshotBuilder builder;
  const uint32_t file = builder.file("/data/sparse", start);
  builder.process(10)
      .thread(10)
      .mapped_file(0x10000000, kSize, file, 0, PROT_READ)
      .mapped_file(0x40000000, 8 * kMiB, file, 0, PROT_READ);
  Snapshot::Contents contents = builder.contents();
  Extents content = Extents::from_record(contents.files[0].content());
  content.append({kPageSize, kSize - kPageSize, pb::SOURCE_ZERO, 0, 0});
  *contents.files[0].mutable_content() = content.to_record();
  contents.files[0].set_size(kSize);
  const Snapshot snapshot(std::move(contents));
  const WrittenCore written = write_core(snapshot, snapshot.root(), directory / "core");

  for (const std::string& what : written.missing) CHECK(what.find("sparse") == std::string::npos);
  CHECK(written.data < kMiB);
  CHECK(on_disk(directory / "core") < 2 * kMiB);
  const CoreView core(directory / "core");
  CHECK(core.memory(0x10000000, kPageSize).value() == start);
  CHECK(core.memory(0x10000000 + kSize - kMiB, kMiB).value() == std::string(kMiB, '\0'));
  CHECK(core.memory(0x40000000, kPageSize).value() == start);
  CHECK(core.memory(0x40000000 + kMiB, kMiB).value() == std::string(kMiB, '\0'));
}
