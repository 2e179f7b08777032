#include "core/resource/inheritance.h"

#include <sys/mman.h>

#include <catch2/catch.hpp>

#include "core/image/snapshot_builder.h"

using namespace snapgdb;

namespace {

constexpr uint64_t kAt = 0x10000, kElsewhere = 0x40000;
constexpr uint32_t kReadWrite = PROT_READ | PROT_WRITE;

// Parent 10 and child 11, with the memory that the tests give them.
struct Family {
  SnapshotBuilder builder;
  SnapshotBuilder::ProcessBuilder& parent = builder.process(10).thread(10);
  SnapshotBuilder::ProcessBuilder& child = builder.process(11, 10).thread(11);
};

std::vector<std::pair<uint64_t, uint64_t>> differing(const Family& family, size_t mapping) {
  const auto snapshot = family.builder.build();
  const pb::Process& child = *snapshot->process(11);
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const auto& [start, end] : Inheritance(*snapshot, child, snapshot->process(10))
                                      .differing(child.mappings(static_cast<int>(mapping))))
    ranges.emplace_back(start, end);
  return ranges;
}

bool is_kept(const Family& family) {
  const auto snapshot = family.builder.build();
  const pb::Process& child = *snapshot->process(11);
  return Inheritance(*snapshot, child, snapshot->process(10)).kept(child.mappings(0)) != nullptr;
}

}  // namespace

TEST_CASE("of a mapping that a child keeps, what it has changed differs") {
  Family family;
  family.parent.zeros(kAt, 3 * kPageSize);
  family.child.memory(kAt, std::string(kPageSize, 'x'), kReadWrite);
  family.child.record().mutable_mappings(0)->CopyFrom(family.parent.record().mappings(0));
  CHECK(is_kept(family));
  CHECK(differing(family, 0) == std::vector<std::pair<uint64_t, uint64_t>>{{kAt, kAt + kPageSize}});
}

TEST_CASE("a child that was born with no memory has all of it to be written") {
  Family family;
  family.child.memory(kAt, "x", kReadWrite);
  const auto snapshot = family.builder.build();
  const pb::Process& child = *snapshot->process(11);
  const Inheritance none(*snapshot, child, nullptr);
  CHECK(none.kept(child.mappings(0)) == nullptr);
  REQUIRE(none.differing(child.mappings(0)).size() == 1);
  CHECK(none.differing(child.mappings(0)).front().end == kAt + kPageSize);
}

TEST_CASE("a mapping is kept whose protection or size is another, not one of another kind") {
  Family family;
  family.parent.zeros(kAt, kPageSize);
  family.child.zeros(kAt, 2 * kPageSize);
  pb::Vma& own = *family.child.record().mutable_mappings(0);
  CHECK(is_kept(family));
  own.set_protection(PROT_READ);
  CHECK(is_kept(family));
  own.set_name("[anon:other]");
  CHECK_FALSE(is_kept(family));
  own.clear_name();
  own.set_shared(true);
  CHECK_FALSE(is_kept(family));
  own.set_shared(false);
  own.set_flags("rd wr wf");  // fork(2) does not hand its content on
  CHECK_FALSE(is_kept(family));
}

TEST_CASE("a mapping with a part that is not in the image, or at another place, is not kept") {
  Family family;
  family.parent.unavailable(kAt, kPageSize, "lost").zeros(kElsewhere, kPageSize);
  family.child.unavailable(kAt, kPageSize, "lost");
  CHECK_FALSE(is_kept(family));
  Family moved;
  moved.parent.zeros(kElsewhere, kPageSize);
  moved.child.zeros(kAt, kPageSize);
  CHECK_FALSE(is_kept(moved));
}
