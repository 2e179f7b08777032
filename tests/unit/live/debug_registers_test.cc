#include "gdbstub/live/debug_registers.h"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <span>

namespace snapgdb::gdbstub {
namespace {

using Kind = BreakpointKind;

Breakpoint watch(uint64_t address, uint64_t size, Kind kind = Kind::kWrite) {
  return {.kind = kind, .address = address, .size = size};
}

// Intel SDM vol. 3, 18.2.4: L0 to L3 in bits 0, 2, 4, 6; R/W and LEN in four bits each from 16 on.
TEST_CASE("DR7 says of each slot whether it counts, for what, and for how many bytes") {
  DebugRegisters registers;
  CHECK(registers.control() == 0);
  REQUIRE(registers.insert(watch(0x1000, 8)));
  REQUIRE(registers.insert(watch(0x2004, 4, Kind::kAccess)));
  REQUIRE(registers.insert(watch(0x3002, 2)));
  REQUIRE(registers.insert({.kind = Kind::kHardware, .address = 0x401000, .size = 1}));
  CHECK(registers.addresses() == std::array<uint64_t, 4>{0x1000, 0x2004, 0x3002, 0x401000});
  CHECK(registers.control() == 0x05f90055);
}

TEST_CASE("what is not aligned takes as many slots as it needs, or none") {
  DebugRegisters registers;
  REQUIRE(registers.insert(watch(0x1001, 7)));  // 1 + 2 + 4
  CHECK(registers.addresses() == std::array<uint64_t, 4>{0x1001, 0x1002, 0x1004, 0});
  CHECK_FALSE(registers.insert(watch(0x2001, 3)));
  CHECK(registers.addresses() == std::array<uint64_t, 4>{0x1001, 0x1002, 0x1004, 0});
  CHECK(registers.insert(watch(0x2001, 1)));
  CHECK_FALSE(registers.insert(watch(0x3000, 1)));
  CHECK_FALSE(DebugRegisters().insert(watch(0, 1 << 20)));
}

TEST_CASE("a slot is free again when all who wanted it are gone") {
  DebugRegisters registers;
  REQUIRE(registers.insert(watch(0x1000, 8)));
  REQUIRE(registers.insert(watch(0x1000, 8)));
  registers.remove(watch(0x1000, 8));
  CHECK_FALSE(registers.empty());
  registers.remove(watch(0x1000, 8));
  CHECK(registers.empty());
  registers.remove(watch(0x1000, 8));
  CHECK(registers.control() == 0);
}

TEST_CASE("x86 cannot watch reads alone, and what is in the code is no business of these") {
  DebugRegisters registers;
  CHECK_FALSE(registers.insert(watch(0x1000, 8, Kind::kRead)));
  CHECK_FALSE(registers.insert({.kind = Kind::kSoftware, .address = 0x1000, .size = 1}));
}

TEST_CASE("DR6 tells which one was met") {
  DebugRegisters registers;
  REQUIRE(registers.insert(watch(0x1000, 8)));
  REQUIRE(registers.insert(watch(0x2000, 4, Kind::kAccess)));
  constexpr uint64_t kAlwaysOne = 0xffff0ff0;
  const auto met = registers.met(kAlwaysOne | 2);
  REQUIRE(met);
  CHECK(met->address == 0x2000);
  CHECK(met->kind == Kind::kAccess);
  CHECK_FALSE(registers.met(kAlwaysOne));
  CHECK_FALSE(registers.met(kAlwaysOne | 8));
}

TEST_CASE("where debug registers stop nobody, what is watched is met by having changed") {
  DebugRegisters registers;
  std::array<std::byte, 16> memory{};
  const auto read = [&](uint64_t address, std::span<std::byte> out) {
    std::copy_n(memory.begin() + static_cast<std::ptrdiff_t>(address), out.size(), out.begin());
    return out.size();
  };
  REQUIRE(registers.insert({.kind = Kind::kHardware, .address = 4, .size = 1}));
  CHECK_FALSE(registers.watches_memory());
  REQUIRE(registers.insert(watch(8, 4)));
  CHECK(registers.watches_memory());
  CHECK_FALSE(registers.changed(read));  // since when?
  memory[4] = memory[12] = std::byte{1};
  CHECK_FALSE(registers.changed(read));
  memory[11] = std::byte{1};
  const auto met = registers.changed(read);
  REQUIRE(met);
  CHECK(met->address == 8);
  CHECK(met->kind == Kind::kWrite);
  CHECK_FALSE(registers.changed(read));
  memory[9] = std::byte{1};
  registers.take_note(read, 9, 1);  // written by the client
  CHECK_FALSE(registers.changed(read));
  memory[9] = std::byte{2};
  registers.take_note(read, 12, 4);
  CHECK(registers.changed(read));
}

}  // namespace
}  // namespace snapgdb::gdbstub
