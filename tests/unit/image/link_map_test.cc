#include "core/image/link_map.h"

#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "core/image/snapshot_builder.h"

using namespace snapgdb;

namespace {

// A process whose executable's headers lead to a list of link_map made by hand.
class HandMadeList {
 public:
  HandMadeList() {
    put(0x0, Elf64_Phdr{PT_PHDR, PF_R, 0, 0, 0, 0, 0, 0});
    put(sizeof(Elf64_Phdr), Elf64_Phdr{PT_DYNAMIC, PF_R, 0, 0x200, 0, 0, 0, 0});
    put(0x200, Elf64_Dyn{DT_DEBUG, {kBase + 0x300}});
    put(0x210, Elf64_Dyn{DT_NULL, {0}});
    put(0x300, uint64_t{1});
    put(0x308, kBase + 0x400);
  }
  void entry(uint64_t at, uint64_t name, uint64_t next) {
    const uint64_t fields[] = {0x7000, name, 0x9000, next, 0};
    put(at, fields);
  }
  void text(uint64_t at, std::string_view text) { bytes_.replace(at, text.size(), text); }
  template <typename Field>
  void put(uint64_t at, const Field& field) {
    std::memcpy(bytes_.data() + at, &field, sizeof field);
  }
  std::vector<LoadedObject> read() const {
    SnapshotBuilder builder;
    const Elf64_auxv_t auxv[] = {{AT_PHDR, {kBase}}, {AT_PHNUM, {2}}, {AT_NULL, {0}}};
    auto& process = builder.process(16).thread(16).memory(kBase, bytes_, PROT_READ);
    process.record().set_auxv(auxv, sizeof auxv);
    const auto snapshot = builder.build();
    return read_link_map(ProcessMemory(*snapshot, snapshot->root()), snapshot->root().auxv());
  }

  static constexpr uint64_t kBase = 0x10000;

 private:
  std::string bytes_ = std::string(4096, '\0');
};

}  // namespace

TEST_CASE("a hand-made list is followed to its end") {
  HandMadeList list;
  list.entry(0x400, 0, HandMadeList::kBase + 0x500);
  list.entry(0x500, HandMadeList::kBase + 0x600, 0);
  list.text(0x600, "/lib/libx.so");
  const auto objects = list.read();
  REQUIRE(objects.size() == 2);
  CHECK(objects[1].linker_name == "/lib/libx.so");
  CHECK(objects[1].name_space == HandMadeList::kBase + 0x300);
}

TEST_CASE("a list that bites its tail, or leads nowhere, ends there") {
  HandMadeList circle;
  circle.entry(0x400, 0, HandMadeList::kBase + 0x500);
  circle.entry(0x500, 0, HandMadeList::kBase + 0x400);
  CHECK(circle.read().size() == 2);
  HandMadeList astray;
  astray.entry(0x400, 1, 0xdead0000);
  CHECK(astray.read().size() == 1);
}

TEST_CASE("libraries of another namespace are listed too, and circles of namespaces end") {
  HandMadeList list;
  list.entry(0x400, 0, 0);
  list.put(0x300, uint64_t{2});
  list.put(0x328, HandMadeList::kBase + 0x700);
  list.put(0x700, uint64_t{2});
  list.put(0x708, HandMadeList::kBase + 0x800);
  list.put(0x728, HandMadeList::kBase + 0x300);
  list.entry(0x800, 0, 0);
  const auto objects = list.read();
  REQUIRE(objects.size() == 2);
  CHECK(objects[1].name_space == HandMadeList::kBase + 0x700);
}

TEST_CASE("headers that cannot be there lead to no list") {
  SnapshotBuilder builder;
  const Elf64_auxv_t auxv[] = {
      {AT_PHDR, {0xffffffffffffffc0}}, {AT_PHNUM, {UINT64_MAX}}, {AT_NULL, {0}}};
  builder.process(10).thread(10).record().set_auxv(auxv, sizeof auxv);
  const auto snapshot = builder.build();
  const ProcessMemory memory(*snapshot, snapshot->root());
  CHECK(read_link_map(memory, snapshot->root().auxv()).empty());
}
