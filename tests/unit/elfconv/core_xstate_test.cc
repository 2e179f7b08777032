#include "elfconv/core_xstate.h"

#include <catch2/catch.hpp>
#include <cstring>

using namespace snapgdb;

namespace {

// The layout of a processor with AVX-512 and AMX.
pb::Host sapphire_rapids() {
  pb::Host host;
  const auto add = [&](uint32_t number, uint32_t offset, uint32_t size) {
    auto& component = *host.add_xstate();
    component.set_number(number);
    component.set_offset(offset);
    component.set_size(size);
  };
  add(2, 576, 256);
  add(5, 1088, 64);
  add(6, 1152, 512);
  add(7, 1664, 1024);
  add(9, 2688, 8);
  add(17, 2752, 64);
  add(18, 2816, 8192);
  return host;
}

std::string area_of(size_t size, uint64_t mask, uint64_t in_use) {
  std::string area(size, '\0');
  for (size_t i = 0; i < size; ++i) area[i] = static_cast<char>(i);
  std::memcpy(area.data() + 464, &mask, sizeof mask);
  std::memcpy(area.data() + 512, &in_use, sizeof in_use);
  return area;
}

uint64_t mask_of(const std::string& area) {
  uint64_t mask;
  std::memcpy(&mask, area.data() + 464, sizeof mask);
  return mask;
}

constexpr uint64_t kAvx512 = 0xe7, kPkru = 0x200, kAmx = 0x60000;

}  // namespace

TEST_CASE("AMX tiles are left out of the vector registers, and nothing else") {
  const std::string area = area_of(11008, kAvx512 | kPkru | kAmx, kAvx512 | kAmx);
  const std::string kept = core_xstate(sapphire_rapids(), area);
  REQUIRE(kept.size() == 2696);
  CHECK(mask_of(kept) == (kAvx512 | kPkru));
  std::string expected = area.substr(0, 2696);
  std::memset(expected.data() + 832, 0, 1088 - 832);  // which no component has
  const uint64_t mask = kAvx512 | kPkru, in_use = kAvx512;
  std::memcpy(expected.data() + 464, &mask, sizeof mask);
  std::memcpy(expected.data() + 512, &in_use, sizeof in_use);
  CHECK(kept == expected);

  CHECK(core_xstate(sapphire_rapids(), area_of(11008, kAvx512 | kAmx, 3)).size() == 2688);
}

TEST_CASE("vector registers without AMX are kept as they are") {
  const std::string area = area_of(2696, kAvx512 | kPkru, kAvx512);
  CHECK(core_xstate(sapphire_rapids(), area) == area);
}

TEST_CASE("the vector registers of another processor are laid out as debuggers expect them") {
  pb::Host genoa;
  constexpr struct {
    uint32_t number, offset, size, usual;
  } kComponents[] = {{2, 576, 256, 576},
                     {5, 832, 64, 1088},
                     {6, 896, 512, 1152},
                     {7, 1408, 1024, 1664},
                     {9, 2432, 8, 2688}};
  for (const auto& [number, offset, size, usual] : kComponents) {
    auto& component = *genoa.add_xstate();
    component.set_number(number), component.set_offset(offset), component.set_size(size);
  }
  const std::string area = area_of(2440, kAvx512 | kPkru, kAvx512);
  const std::string kept = core_xstate(genoa, area);
  REQUIRE(kept.size() == 2696);
  CHECK(kept.substr(0, 576) == area.substr(0, 576));
  for (const auto& [number, offset, size, usual] : kComponents)
    CHECK(kept.substr(usual, size) == area.substr(offset, size));
  CHECK(core_xstate(genoa, area.substr(0, 2000)) == area.substr(0, 2000));
}

TEST_CASE("vector registers of an unknown layout are kept as they are") {
  const std::string area = area_of(11008, kAvx512 | kAmx, kAvx512);
  CHECK(core_xstate(pb::Host(), area) == area);
  pb::Host hostile;
  auto& component = *hostile.add_xstate();
  component.set_number(4000000000);
  component.set_offset(4000000000);
  component.set_size(4000000000);
  CHECK(core_xstate(hostile, area) == area);
  CHECK(core_xstate(sapphire_rapids(), "short") == "short");
}
