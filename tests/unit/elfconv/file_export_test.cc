#include "elfconv/file_export.h"

#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <fstream>

#include "core/base/error.h"
#include "core/image/snapshot_builder.h"
#include "tests/unit/elfconv/core_view.h"

using namespace snapgdb;
using namespace snapgdb::test;

namespace {

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> sorted(std::vector<std::string> names) {
  std::ranges::sort(names);
  return names;
}

template <typename Struct>
std::string bytes_of(const Struct& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

// Memory that looks as if the dynamic linker had loaded `name` from the file `id`, at 0x700000.
void add_link_map(SnapshotBuilder::ProcessBuilder& process, const std::string& name, uint32_t id) {
  struct {
    Elf64_Phdr headers[2]{};
    Elf64_Dyn dynamic[2]{};
    uint64_t debug[5]{1, 0, 0, 0, 0};  // version, map, …
    uint64_t maps[2][5]{};             // addr, name, ld, next, prev
    char name[200]{};
  } memory;
  const uint64_t at = 0x10000;
  const auto address = [&](const void* member) {
    return at + static_cast<uint64_t>(static_cast<const char*>(member) -
                                      reinterpret_cast<const char*>(&memory));
  };
  memory.headers[0].p_type = PT_PHDR;
  memory.headers[0].p_vaddr = 0x40;  // so the load offset is at - 0x40
  memory.headers[1].p_type = PT_DYNAMIC;
  memory.headers[1].p_vaddr = address(memory.dynamic) - (at - 0x40);
  memory.dynamic[0].d_tag = DT_DEBUG;
  memory.dynamic[0].d_un.d_ptr = address(memory.debug);
  memory.debug[1] = address(memory.maps[0]);
  memory.maps[0][3] = address(memory.maps[1]);
  memory.maps[1][1] = address(memory.name);
  memory.maps[1][2] = 0x700100;
  memory.maps[1][3] = address(memory.maps[0]);  // a circle
  name.copy(memory.name, sizeof memory.name - 1);
  process.memory(at, bytes_of(memory), PROT_READ);
  process.mapped_file(0x700000, 0x1000, id, 0, PROT_READ);
  const Elf64_auxv_t auxv[] = {{AT_PHDR, {at}}, {AT_PHNUM, {2}}, {AT_NULL, {0}}};
  process.record().set_auxv(auxv, sizeof auxv);
}

}  // namespace

TEST_CASE("the image's files are laid out as they were, byte by byte") {
  const TemporaryDirectory directory;
  const std::string library(3 * kPageSize + 77, 'l');
  SnapshotBuilder builder;
  builder.process(10).thread(10);
  const uint32_t exe = builder.file("/usr/bin/exe", "program", pb::FILE_EXECUTABLE);
  builder.file("/usr/lib/x y/lib.so", library, pb::FILE_LIBRARY);
  builder.file("/empty", "", pb::FILE_LIBRARY);
  const auto snapshot = builder.build();
  const ExportedFiles exported = export_files(*snapshot, directory / "files");

  CHECK(exported.missing.empty());
  CHECK(exported.count == 3);
  CHECK(exported.paths.at(exe) == "usr/bin/exe");
  CHECK(content_of(directory / "files/usr/bin/exe") == "program");
  CHECK(content_of(directory / "files/usr/lib/x y/lib.so") == library);
  CHECK(std::filesystem::file_size(directory / "files/empty") == 0);

  CHECK(export_files(*snapshot, directory / "files").missing.empty());  // again, over itself
  CHECK(content_of(directory / "files/usr/bin/exe") == "program");
}

TEST_CASE("names from the image cannot lead out of the directory") {
  const TemporaryDirectory directory;
  SnapshotBuilder builder;
  builder.process(10).thread(10);
  builder.file("/../../up", "1");
  builder.file("a/../../b/./c", "2");
  builder.file("//double//slash", "3");
  builder.file(std::string("/nul\0byte", 9), "4");
  const auto snapshot = builder.build();
  export_files(*snapshot, directory / "files");
  CHECK(sorted(directory.files()) == std::vector<std::string>{"files/a/b/c", "files/double/slash",
                                                              "files/nul_byte", "files/up"});
}

TEST_CASE("what cannot be a file name is reported and the rest is written") {
  const TemporaryDirectory directory;
  SnapshotBuilder builder;
  builder.process(10).thread(10);
  builder.file("", "nameless");
  builder.file("/..", "nameless too");
  builder.file("/" + std::string(300, 'x'), "too long");
  std::string deep;
  for (int i = 0; i < 5000; ++i) deep += "/d";
  builder.file(deep, "too deep");
  builder.file("/a", "a file");
  builder.file("/a/b", "in the file");
  const auto snapshot = builder.build();
  const ExportedFiles exported = export_files(*snapshot, directory / "files");
  CHECK(exported.count == 1);
  CHECK(exported.missing.size() == 5);
  CHECK(directory.files() == std::vector<std::string>{"files/a"});
}

TEST_CASE("links in the directory are not followed") {
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory / "outside");
  std::ofstream(directory / "outside/victim") << "untouched";
  std::filesystem::create_directory(directory / "files");
  std::filesystem::create_directory_symlink("../outside", directory / "files/lib");
  std::filesystem::create_symlink("../outside/victim", directory / "files/exe");
  SnapshotBuilder builder;
  builder.process(10).thread(10);
  builder.file("/lib/victim", "overwritten");
  builder.file("/exe", "overwritten");
  const auto snapshot = builder.build();
  CHECK(export_files(*snapshot, directory / "files").missing.size() == 2);
  CHECK(content_of(directory / "outside/victim") == "untouched");
}

TEST_CASE("two files of one path are both kept, the one that still has its name in its place") {
  const TemporaryDirectory directory;
  SnapshotBuilder builder;
  builder.process(10).thread(10);
  const uint32_t old = builder.file("/lib/x", "old");
  const uint32_t current = builder.file("/lib/x", "new");
  const auto both = builder.build();
  Snapshot::Contents contents;
  contents.record = both->record();
  contents.processes = {both->processes().begin(), both->processes().end()};
  contents.address_spaces.emplace(10, Extents());
  contents.files = {both->files().begin(), both->files().end()};
  contents.files[0].set_deleted(true);
  class Pages : public PageStore {
   public:
    explicit Pages(std::shared_ptr<const Snapshot> snapshot) : snapshot_(std::move(snapshot)) {}
    void read_page(uint64_t ordinal, std::span<std::byte, kPageSize> out) const override {
      const std::string text = ordinal == 0 ? "old" : "new";
      std::ranges::copy(std::as_bytes(std::span(text)), out.begin());
    }
    std::shared_ptr<const Snapshot> snapshot_;
  };
  contents.pages = std::make_shared<Pages>(both);
  const Snapshot snapshot(std::move(contents));
  const ExportedFiles exported = export_files(snapshot, directory / "files");
  CHECK(content_of(directory / ("files/" + exported.paths.at(current))) == "new");
  CHECK(exported.paths.at(current) == "lib/x");
  CHECK(content_of(directory / ("files/" + exported.paths.at(old))) == "old");
  CHECK(exported.missing.size() == 1);
}

TEST_CASE("a library is there under the name that the dynamic linker knows, too") {
  const TemporaryDirectory directory;
  SnapshotBuilder builder;
  const uint32_t id = builder.file("/usr/lib/libx.so.1.2.3", "library", pb::FILE_LIBRARY);
  add_link_map(builder.process(10).thread(10), "/lib/libx.so.1", id);
  const auto snapshot = builder.build();
  export_files(*snapshot, directory / "files");
  CHECK(content_of(directory / "files/lib/libx.so.1") == "library");
  std::ofstream(directory / "files/lib/libx.so.1") << "from an earlier export";
  export_files(*snapshot, directory / "files");
  CHECK(content_of(directory / "files/lib/libx.so.1") == "library");
}

TEST_CASE("a directory that cannot be made is an error") {
  SnapshotBuilder builder;
  builder.process(10).thread(10);
  const auto snapshot = builder.build();
  CHECK_THROWS_AS(export_files(*snapshot, "/proc/no/files"), Error);
}
