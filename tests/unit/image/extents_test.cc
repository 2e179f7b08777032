#include "core/image/extents.h"

#include <catch2/catch.hpp>
#include <chrono>

#include "core/base/error.h"

using namespace snapgdb;
using Catch::Matchers::Contains;

TEST_CASE("runs that go on become one") {
  Extents extents;
  extents.append({0x1000, kPageSize, pb::SOURCE_STORED, 7, 0});
  extents.append({0x2000, kPageSize, pb::SOURCE_STORED, 8, 0});
  extents.append({0x3000, kPageSize, pb::SOURCE_STORED, 8, 0});
  extents.append({0x5000, kPageSize, pb::SOURCE_FILE, 0x1000, 1});
  extents.append({0x6000, kPageSize, pb::SOURCE_FILE, 0x2000, 1});
  extents.append({0x7000, kPageSize, pb::SOURCE_FILE, 0x3000, 2});
  REQUIRE(extents.all().size() == 4);
  CHECK(extents.all()[0].size == 2 * kPageSize);
  CHECK(extents.all()[2].size == 2 * kPageSize);
}

TEST_CASE("an address is found in its run or in none") {
  Extents extents;
  extents.append({0x1000, 0x2000, pb::SOURCE_ZERO, 0, 0});
  extents.append({0x5000, 0x1000, pb::SOURCE_ZERO, 0, 0});
  CHECK(extents.find(0xfff) == nullptr);
  CHECK(extents.find(0x2fff) == &extents.all()[0]);
  CHECK(extents.find(0x3000) == nullptr);
  CHECK(extents.find(0x5000) == &extents.all()[1]);
  CHECK(extents.overlapping(0x2000, 0x5000).size() == 1);
  CHECK(extents.overlapping(0x2000, 0x5001).size() == 2);
  CHECK(extents.overlapping(0x3000, 0x5000).empty());
}

TEST_CASE("extents survive being recorded") {
  Extents extents;
  extents.append({0x1000, 0x1000, pb::SOURCE_STORED, 42, 0});
  extents.append_missing(0x2000, 0x3000, "refused");
  extents.append_missing(0x5000, 0x1000, "kept back", KeptBy::kProgram);
  extents.append({0x7fff'ffff'f000, 0x1000, pb::SOURCE_FILE, 0x10000, 3});
  const Extents back = Extents::from_record(extents.to_record());
  REQUIRE(back.all().size() == 4);
  CHECK(back.all()[0].where == 42);
  CHECK(back.reason(back.all()[1]) == "refused");
  CHECK(Extents::kept_by(back.all()[1]) == KeptBy::kNobody);
  CHECK(back.reason(back.all()[2]) == "kept back");
  CHECK(Extents::kept_by(back.all()[2]) == KeptBy::kProgram);
  CHECK(back.all()[3].start == 0x7fff'ffff'f000);
  CHECK(back.all()[3].what == 3);
}

TEST_CASE("a record that breaks the rules is refused") {
  const auto record = [](uint64_t gap, uint64_t pages, int source, uint64_t where, uint32_t what) {
    pb::ExtentMap map;
    map.add_gap(gap);
    map.add_pages(pages);
    map.add_source(static_cast<pb::Source>(source));
    map.add_where(where);
    map.add_what(what);
    return map;
  };
  CHECK_NOTHROW(Extents::from_record(record(1, 1, pb::SOURCE_ZERO, 0, 0)));
  CHECK_THROWS_AS(Extents::from_record(record(1, 0, pb::SOURCE_ZERO, 0, 0)), Error);
  CHECK_THROWS_AS(Extents::from_record(record(UINT64_MAX, 1, pb::SOURCE_ZERO, 0, 0)), Error);
  CHECK_THROWS_AS(Extents::from_record(record(1, UINT64_MAX, pb::SOURCE_ZERO, 0, 0)), Error);
  CHECK_THROWS_AS(Extents::from_record(record(1, 1, 99, 0, 0)), Error);
  CHECK_THROWS_AS(Extents::from_record(record(1, 1, pb::SOURCE_MISSING, 0, 0)), Error);
  CHECK_THROWS_AS(Extents::from_record(record(1, 2, pb::SOURCE_FILE, UINT64_MAX - 1, 0)), Error);
  pb::ExtentMap uneven = record(1, 1, pb::SOURCE_ZERO, 0, 0);
  uneven.add_gap(1);
  CHECK_THROWS_AS(Extents::from_record(uneven), Error);
}

TEST_CASE("extents that go on others keep their reasons") {
  Extents extents, later;
  extents.append_missing(0x1000, 0x1000, "a");
  extents.append_missing(0x2000, 0x1000, "b");
  later.append_missing(0x3000, 0x1000, "b");
  later.append_missing(0x4000, 0x1000, "c");
  later.append_missing(0x5000, 0x1000, "a");
  extents.append_all(Extents::from_record(later.to_record()));
  std::string reasons;
  for (const Extent& extent : extents.all()) reasons += extents.reason(extent);
  CHECK(reasons == "abca");  // the second and the third run became one
}

TEST_CASE("a reason for every page does not take time without end") {
  constexpr uint64_t kPages = 200'000;
  pb::ExtentMap record;
  for (uint32_t i = 0; i < kPages; ++i) {
    record.add_gap(0);
    record.add_pages(1);
    record.add_source(pb::SOURCE_MISSING);
    record.add_where(0);
    record.add_what(i);
    record.add_reasons("reason " + std::to_string(i));
  }
  const auto begin = std::chrono::steady_clock::now();
  Extents extents;
  extents.append_all(Extents::from_record(record));
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(10));
  CHECK(extents.reason(extents.all().back()) == "reason 199999");
}
