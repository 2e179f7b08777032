#include "core/inspect/module_map.h"

#include <elf.h>
#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "core/image/snapshot_builder.h"

using namespace snapgdb;

namespace {

constexpr uint32_t kText = PROT_READ | PROT_EXEC, kData = PROT_READ | PROT_WRITE;

Elf64_Phdr load(uint64_t address, uint64_t offset, uint64_t size, uint64_t memory_size = 0) {
  Elf64_Phdr header{};
  header.p_type = PT_LOAD;
  header.p_flags = PF_R | PF_X;
  header.p_vaddr = address;
  header.p_offset = offset;
  header.p_filesz = size;
  header.p_memsz = memory_size ? memory_size : size;
  header.p_align = kPageSize;
  return header;
}

std::string elf(uint16_t type, std::vector<Elf64_Phdr> segments, uint64_t size = 0x8000) {
  std::string bytes = empty_elf(type);
  Elf64_Ehdr header;
  std::memcpy(&header, bytes.data(), sizeof header);
  header.e_phoff = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = static_cast<uint16_t>(segments.size());
  bytes.assign(reinterpret_cast<const char*>(&header), sizeof header);
  bytes.append(reinterpret_cast<const char*>(segments.data()),
               segments.size() * sizeof(Elf64_Phdr));
  bytes.resize(std::max<size_t>(size, bytes.size()));
  return bytes;
}

// One process whose memory map is being described.
struct Tree {
  SnapshotBuilder builder;
  SnapshotBuilder::ProcessBuilder& process = builder.process(10).thread(10);

  std::vector<Module> modules() {
    snapshot = builder.build();
    files.emplace(*snapshot);
    const ModuleMap map(*snapshot, snapshot->root(), *files);
    return {map.all().begin(), map.all().end()};
  }

  std::shared_ptr<const Snapshot> snapshot;
  std::optional<ElfFiles> files;
};

}  // namespace

TEST_CASE("a shared object's bias is where its first segment lies") {
  Tree tree;
  const uint32_t file =
      tree.builder.file("/lib/a.so", elf(ET_DYN, {load(0, 0, 0x1000), load(0x1000, 0x1000, 0x2345),
                                                  load(0x4e00, 0x3e00, 0x300, 0x1300)}));
  tree.process.mapped_file(0x7f0000000000, 0x1000, file, 0, PROT_READ)
      .mapped_file(0x7f0000001000, 0x3000, file, 0x1000, kText)
      .mapped_file(0x7f0000004000, 0x2000, file, 0x3000, kData);
  const auto modules = tree.modules();
  REQUIRE(modules.size() == 1);
  CHECK(modules[0].bias == 0x7f0000000000);
  CHECK(modules[0].start == 0x7f0000000000);
  CHECK(modules[0].end == 0x7f0000007000);  // with the .bss
  CHECK(modules[0].path == "/lib/a.so");
  CHECK(modules[0].in_file(0x7f0000001234) == 0x1234);
  CHECK(modules[0].debug == nullptr);
}

TEST_CASE("a program linked to a fixed address has no bias, a prelinked library the difference") {
  Tree tree;
  const uint32_t program = tree.builder.file("/bin/p", elf(ET_EXEC, {load(0x400000, 0, 0x1000)}));
  const uint32_t library =
      tree.builder.file("/lib/l.so", elf(ET_DYN, {load(0x3000000000, 0, 0x1000)}));
  tree.process.mapped_file(0x400000, 0x1000, program, 0, kText)
      .mapped_file(0x3000100000, 0x1000, library, 0, kText);
  const auto modules = tree.modules();
  REQUIRE(modules.size() == 2);
  CHECK(modules[0].bias == 0);
  CHECK(modules[0].in_file(0x400123) == 0x400123);
  CHECK(modules[1].bias == 0x100000);
  CHECK(modules[1].in_file(0x3000100123) == 0x3000000123);
}

TEST_CASE("a page of the file that two segments share does not mislead") {
  Tree tree;
  // The end of the text and the start of the data stand in one page of the file.
  const uint32_t file = tree.builder.file(
      "/lib/a.so", elf(ET_DYN, {load(0, 0, 0x800), load(0x2800, 0x800, 0x500)}, 0x1000));
  tree.process.mapped_file(0x10000, 0x1000, file, 0, kText)
      .mapped_file(0x12000, 0x1000, file, 0, kData);
  const auto modules = tree.modules();
  REQUIRE(modules.size() == 1);
  CHECK(modules[0].bias == 0x10000);
}

TEST_CASE("a file that is loaded twice is two modules") {
  Tree tree;
  const uint32_t file = tree.builder.file(
      "/lib/a.so", elf(ET_DYN, {load(0, 0, 0x1000), load(0x1000, 0x1000, 0x1000)}));
  for (uint64_t base : {0x100000, 0x200000})
    tree.process.mapped_file(base, 0x1000, file, 0, PROT_READ)
        .mapped_file(base + 0x1000, 0x1000, file, 0x1000, kText);
  const auto modules = tree.modules();
  REQUIRE(modules.size() == 2);
  CHECK(modules[0].bias == 0x100000);
  CHECK(modules[1].bias == 0x200000);
  CHECK(modules[0].elf == modules[1].elf);
}

TEST_CASE("a file that is merely mapped as data is no module") {
  Tree tree;
  const uint32_t file = tree.builder.file(
      "/lib/a.so", elf(ET_DYN, {load(0, 0, 0x1000), load(0x2000, 0x1000, 0x1000)}));
  const uint32_t text = tree.builder.file("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
  tree.process.mapped_file(0x100000, 0x8000, file, 0, PROT_READ)
      .mapped_file(0x200000, 0x1000, text, 0, PROT_READ);
  CHECK(tree.modules().empty());
}

TEST_CASE("what a dynamic linker leaves inaccessible between segments is no module") {
  Tree tree;
  const uint32_t file = tree.builder.file(
      "/lib/a.so", elf(ET_DYN, {load(0, 0, 0x1000), load(0x5000, 0x1000, 0x4000)}));
  tree.process.mapped_file(0x100000, 0x1000, file, 0, kText)
      .mapped_file(0x101000, 0x4000, file, 0x1000, PROT_NONE)
      .mapped_file(0x105000, 0x4000, file, 0x1000, kData);
  const auto modules = tree.modules();
  REQUIRE(modules.size() == 1);
  CHECK(modules[0].end == 0x109000);
}

TEST_CASE("the vDSO's file is the memory itself") {
  Tree tree;
  tree.process.memory(0x7fff00000000, elf(ET_DYN, {load(0, 0, 0x1000)}, 0x1000), kText, "[vdso]");
  const auto modules = tree.modules();
  REQUIRE(modules.size() == 1);
  CHECK(modules[0].path == "[vdso]");
  CHECK(modules[0].file == nullptr);
  CHECK(modules[0].bias == 0x7fff00000000);
  CHECK(modules[0].elf->bytes().size() == 0x1000);
}

TEST_CASE("a separate debug file is found by the build-id") {
  Tree tree;
  const std::string bytes = elf(ET_DYN, {load(0, 0, 0x1000)});
  const uint32_t file = tree.builder.file("/lib/a.so", bytes, pb::FILE_LIBRARY, "\xab\xcd");
  tree.builder.file("/usr/lib/debug/.build-id/ab/cd.debug", bytes, pb::FILE_DEBUG, "\xab\xcd");
  tree.process.mapped_file(0x100000, 0x1000, file, 0, kText);
  const auto modules = tree.modules();
  REQUIRE(modules.size() == 1);
  REQUIRE(modules[0].debug != nullptr);
  CHECK(modules[0].debug->bytes() == bytes);
}

TEST_CASE("addresses are found in the module that holds them") {
  Tree tree;
  const std::string bytes = elf(ET_DYN, {load(0, 0, 0x1000, 0x100000)});
  const uint32_t a = tree.builder.file("/lib/a.so", bytes);
  const uint32_t b = tree.builder.file("/lib/b.so", bytes);
  tree.process.mapped_file(0x100000, 0x1000, a, 0, kText)
      .mapped_file(0x180000, 0x1000, b, 0, kText);  // within what a.so claims to need
  const auto snapshot = tree.builder.build();
  ElfFiles files(*snapshot);
  const ModuleMap map(*snapshot, snapshot->root(), files);
  CHECK(map.find(0xfffff) == nullptr);
  REQUIRE(map.find(0x100000));
  CHECK(map.find(0x100000)->path == "/lib/a.so");
  CHECK(map.find(0x17ffff)->path == "/lib/a.so");
  CHECK(map.find(0x180000)->path == "/lib/b.so");
  CHECK(map.find(0x280000) == nullptr);
}

TEST_CASE("headers that contradict themselves make no module") {
  const Elf64_Phdr whole = load(0, 0, 0x1000);
  std::vector<Elf64_Phdr> many(65, whole);
  Elf64_Phdr wraps = whole, far = whole, larger_in_file = whole, crooked = whole;
  wraps.p_memsz = UINT64_MAX;
  far.p_offset = UINT64_MAX - 5;
  larger_in_file.p_filesz = 0x2000;
  crooked.p_vaddr = 0x123;
  const std::vector<std::string> files = {
      "",
      "\177ELF",
      empty_elf(ET_DYN),
      empty_elf(ET_REL),
      elf(ET_DYN, {}),
      elf(ET_DYN, many),
      elf(ET_DYN, {wraps}),
      elf(ET_DYN, {far}),
      elf(ET_DYN, {larger_in_file}),
      elf(ET_DYN, {crooked}),
      elf(ET_DYN, {whole}).substr(0, 100),
      elf(ET_EXEC, {whole}),  // linked to 0, yet lies elsewhere
  };
  for (const std::string& bytes : files) {
    Tree tree;
    const uint32_t file = tree.builder.file("/lib/a.so", bytes);
    tree.process.mapped_file(0x100000, 0x1000, file, 0, kText);
    CHECK(tree.modules().empty());
  }
}
