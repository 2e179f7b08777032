#include "gdbstub/registers.h"

#include <sys/user.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "conversation.h"
#include "gdbstub/target_description.h"

namespace snapgdb::gdbstub {
namespace {

constexpr uint64_t kSse = 3, kAvx = 7, kAvx512 = 0xe7, kEverything = 0x2e7;

const Register& named(const RegisterLayout& layout, std::string_view name) {
  for (const Register& each : layout.registers())
    if (each.name == name) return each;
  throw std::runtime_error("no register " + std::string(name));
}

// An XSAVE area of the size Intel's processors have with all that we know, holding `components`.
std::string xsave_area(uint64_t components) {
  std::string area(2696, '\0');
  std::memcpy(area.data() + 512, &components, sizeof components);
  return area;
}

template <typename Number>
void put(std::string& area, size_t offset, Number value) {
  std::memcpy(area.data() + offset, &value, sizeof value);
}

std::string little_endian(uint64_t value, size_t size) {
  return std::string(reinterpret_cast<const char*>(&value), std::min<size_t>(size, 8)) +
         std::string(size > 8 ? size - 8 : 0, '\0');
}

std::string value_of(const RegisterSet& set, const RegisterLayout& layout, std::string_view name) {
  return RegisterLayout::value(set, named(layout, name)).value_or("unavailable");
}

}  // namespace

TEST_CASE("the registers are those that the processor had switched on") {
  CHECK(RegisterLayout(kSse, {}).features().size() == 4);
  CHECK(RegisterLayout(kAvx, {}).features().back().name == "org.gnu.gdb.i386.avx");
  CHECK(RegisterLayout(kAvx512, {}).features().back().name == "org.gnu.gdb.i386.avx512");
  CHECK(RegisterLayout(kEverything, {}).features().back().name == "org.gnu.gdb.i386.pkeys");
  CHECK(RegisterLayout(kEverything, {}).registers().size() ==
        24 + 8 + 8 + 17 + 1 + 2 + 16 + 72 + 1);
  CHECK(RegisterLayout(0x67, {}).features().back().name == "org.gnu.gdb.i386.avx");  // no high ZMM
}

TEST_CASE("gdb's first registers have gdb's numbers") {
  const RegisterLayout layout(kEverything, {});
  const auto registers = layout.registers();
  CHECK(registers[0].name == "rax");
  CHECK(registers[6].name == "rbp");
  CHECK(registers[7].name == "rsp");
  CHECK(registers[16].name == "rip");
}

TEST_CASE("general registers have the first numbers, whatever feature gdb has them in") {
  const RegisterLayout layout(kEverything, {});
  const auto registers = layout.registers();
  CHECK(layout.general().size() == 27);
  CHECK(registers[24].name == "orig_rax");
  CHECK(registers[25].name == "fs_base");
  CHECK(registers[26].name == "gs_base");
  CHECK(registers[27].name == "st0");
  CHECK(registers[43].name == "xmm0");
  CHECK(registers[59].name == "mxcsr");
  for (const RegisterFeature& feature : layout.features())
    if (feature.name == "org.gnu.gdb.i386.segments")
      CHECK(feature.numbers == std::vector<size_t>{25, 26});
}

TEST_CASE("general registers are read from where the kernel keeps them") {
  user_regs_struct raw{};
  raw.rip = 0x1122334455667788;
  raw.eflags = 0x246;
  raw.fs_base = 0x7f0000000000;
  raw.orig_rax = UINT64_MAX;
  RegisterSet set;
  set.general.assign(reinterpret_cast<const char*>(&raw), sizeof raw);
  const RegisterLayout layout(kSse, {});
  CHECK(value_of(set, layout, "rip") == little_endian(raw.rip, 8));
  CHECK(value_of(set, layout, "eflags") == little_endian(0x246, 4));
  CHECK(value_of(set, layout, "fs_base") == little_endian(raw.fs_base, 8));
  CHECK(value_of(set, layout, "orig_rax") == little_endian(UINT64_MAX, 8));
  CHECK(value_of(set, layout, "xmm0") == "unavailable");
}

TEST_CASE("a component in its initial state reads as that, whatever bytes lie there") {
  const RegisterLayout layout(kEverything, {});
  RegisterSet set{"", xsave_area(0)};
  set.xstate.replace(0, 24, 24, '\xee');
  set.xstate.replace(32, 480 - 96, 480 - 96, '\xee');
  set.xstate.replace(576, 256, 256, '\xee');
  put(set.xstate, 24, uint32_t{0x1f80});
  CHECK(value_of(set, layout, "fctrl") == little_endian(0x37f, 4));
  CHECK(value_of(set, layout, "ftag") == little_endian(0xffff, 4));
  CHECK(value_of(set, layout, "st3") == std::string(10, '\0'));
  CHECK(value_of(set, layout, "xmm5") == std::string(16, '\0'));
  CHECK(value_of(set, layout, "ymm5h") == std::string(16, '\0'));
  CHECK(value_of(set, layout, "pkru") == std::string(4, '\0'));
  CHECK(value_of(set, layout, "mxcsr") == little_endian(0x1f80, 4));
}

TEST_CASE("extended registers lie where the machine says, or else where Intel has them") {
  RegisterSet set{"", xsave_area(kEverything)};
  set.xstate.replace(2688, 4, "PKRU");
  set.xstate.replace(1664 + 64 * 3, 64,
                     std::string(16, 'x') + std::string(16, 'y') + std::string(32, 'z'));
  set.xstate.replace(832, 8, "AMDmask.");
  const RegisterLayout intel(kEverything, {});
  CHECK(value_of(set, intel, "pkru") == "PKRU");
  CHECK(value_of(set, intel, "xmm19") == std::string(16, 'x'));
  CHECK(value_of(set, intel, "ymm19h") == std::string(16, 'y'));
  CHECK(value_of(set, intel, "zmm19h") == std::string(32, 'z'));

  pb::XstateComponent opmask;
  opmask.set_number(5);
  opmask.set_offset(832);  // as on AMD's processors
  opmask.set_size(64);
  CHECK(value_of(set, RegisterLayout(kEverything, {&opmask, 1}), "k0") == "AMDmask.");
  for (const uint32_t nonsense : {0u, 100u, 0xffffffffu}) {
    opmask.set_offset(nonsense);
    CHECK(value_of(set, RegisterLayout(kEverything, {&opmask, 1}), "k0") == std::string(8, '\0'));
  }
}

TEST_CASE("a register beyond the end of what was captured is unavailable, not zero") {
  const RegisterLayout layout(kEverything, {});
  RegisterSet set{"", xsave_area(kEverything).substr(0, 832)};
  CHECK(value_of(set, layout, "ymm15h") == std::string(16, '\0'));
  CHECK(value_of(set, layout, "k0") == "unavailable");
  CHECK(value_of(set, layout, "zmm0h") == "unavailable");
  CHECK_FALSE(RegisterLayout::assign(set, named(layout, "k0"), std::string(8, 'k')));
  set.xstate.resize(511);
  CHECK(value_of(set, layout, "xmm0") == "unavailable");
}

TEST_CASE("the tag word is put together from the stack's content") {
  const RegisterLayout layout(kSse, {});
  RegisterSet set{"", xsave_area(1)};
  put(set.xstate, 2, uint16_t{6 << 11});    // TOP = 6: ST0 is physical register 6
  put(set.xstate, 4, uint8_t{0b11010000});  // 4, 6 and 7 are in use
  const auto put_st = [&](size_t st, uint64_t significand, uint16_t exponent) {
    put(set.xstate, 32 + 16 * st, significand);
    put(set.xstate, 40 + 16 * st, exponent);
  };
  put_st(0, 0xc90fdaa22168c235, 0x4000);  // physical 6: valid
  put_st(1, 0, 0x8000);                   // physical 7: minus zero
  put_st(6, 0x8000000000000000, 0x7fff);  // physical 4: infinity
  CHECK(value_of(set, layout, "ftag") == little_endian(0b01'00'11'10'11'11'11'11, 4));
  REQUIRE(RegisterLayout::assign(set, named(layout, "ftag"), little_endian(0xfff0, 4)));
  CHECK(static_cast<uint8_t>(set.xstate[4]) == 0b00000011);
}

TEST_CASE("writing into an initial component makes the whole of it valid") {
  const RegisterLayout layout(kAvx, {});
  RegisterSet set{"", xsave_area(0)};
  set.xstate.replace(32, 128, 128, '\xee');
  REQUIRE(RegisterLayout::assign(set, named(layout, "st2"), std::string(10, 's')));
  CHECK(set.xstate[512] == 1);
  CHECK(value_of(set, layout, "st2") == std::string(10, 's'));
  CHECK(value_of(set, layout, "st0") == std::string(10, '\0'));
  CHECK(value_of(set, layout, "fctrl") == little_endian(0x37f, 4));
  REQUIRE(RegisterLayout::assign(set, named(layout, "ymm1h"), std::string(16, 'y')));
  CHECK(set.xstate[512] == 5);
  CHECK(value_of(set, layout, "xmm1") == std::string(16, '\0'));
}

TEST_CASE("a packet holds all registers there can be") {
  const RegisterLayout layout(UINT64_MAX, {});
  size_t bytes = 0;
  for (const Register& each : layout.registers()) bytes += each.size();
  CHECK(2 * bytes + 1 <= kPacketSize);
}

TEST_CASE("the description is one document with every register in order") {
  const RegisterLayout layout(kEverything, {});
  const std::string xml = target_description(layout);
  size_t at = 0;
  for (const RegisterFeature& feature : layout.features())
    for (const size_t number : feature.numbers) {
      const Register& each = layout.registers()[number];
      at = xml.find(fmt::format("<reg name=\"{}\" bitsize=\"{}\"", each.name, each.bits), at);
      REQUIRE(at != std::string::npos);
    }
  CHECK(contains(xml, R"(<reg name="st0" bitsize="80" type="i387_ext" regnum="27"/>)"));
  CHECK(contains(xml, R"(<reg name="orig_rax" bitsize="64" type="int" regnum="24"/>)"));
  CHECK(contains(xml, R"(<reg name="ymm0h" bitsize="128" type="uint128" regnum="60"/>)"));
  CHECK(contains(xml, R"(<reg name="fs_base" bitsize="64" type="int"/>)"));  // follows the last
  CHECK(contains(xml, "<osabi>GNU/Linux</osabi>"));
}

TEST_CASE("g shows what is not known as such, and p agrees with it") {
  SnapshotBuilder builder;
  builder.process(16).thread(16, 0x401000, 0x7ffe0000);
  builder.record().mutable_host()->set_xcr0(kAvx);
  Conversation client(builder.build());
  const std::string all = client.ask("g");
  CHECK(all.substr(16 * 16, 16) == "0010400000000000");
  CHECK(client.ask("p10") == "0010400000000000");
  CHECK(client.ask("p1b") == std::string(20, 'x'));  // st0
}

TEST_CASE("g has general registers only, but all of them for lldb") {
  SnapshotBuilder builder;
  builder.process(16).thread(16, 0x401000).last_thread().set_xstate(xsave_area(0));
  builder.record().mutable_host()->set_xcr0(kAvx);
  const auto snapshot = builder.build();
  constexpr size_t kGeneral = 17 * 8 + 7 * 4 + 3 * 8, kFloat = 8 * 10 + 8 * 4,
                   kVectors = 16 * 16 + 4 + 16 * 16;
  CHECK(Conversation(snapshot).ask("g").size() == 2 * kGeneral);
  Conversation lldb(snapshot);
  CHECK(lldb.ask("QEnableErrorStrings") == "OK");
  CHECK(lldb.ask("g").size() == 2 * (kGeneral + kFloat + kVectors));
  CHECK(lldb.ask("G" + lldb.ask("g")) == "OK");
}

TEST_CASE("a thread without registers has none, not zeros") {
  SnapshotBuilder builder;
  builder.process(16).thread(16).last_thread().clear_registers();
  Conversation client(builder.build());
  CHECK(client.ask("g").find_first_not_of('x') == std::string::npos);
  CHECK(client.ask("P0=0000000000000000") == "E02");
}

TEST_CASE("registers are written one by one or all at once, for one thread") {
  SnapshotBuilder builder;
  auto& process = builder.process(16).thread(16, 0x401000);
  process.last_thread().set_xstate(xsave_area(0));
  process.thread(17, 0x402000);
  builder.record().mutable_host()->set_xcr0(kAvx);
  const auto snapshot = builder.build();
  Conversation client(snapshot);
  const std::string before = client.ask("g");
  CHECK(client.ask("P0=0500000000000000") == "OK");
  CHECK(client.ask("p0") == "0500000000000000");
  CHECK(client.ask("P0=05") == "E16");
  std::string after = client.ask("g");
  after.replace(0, 16, "0600000000000000");
  CHECK(client.ask("G" + after) == "OK");
  CHECK(client.ask("g") == after);
  CHECK(client.ask("G" + after + "00") == "E16");
  CHECK(client.ask("Hgp10.11") == "OK");
  CHECK(client.ask("p0") == "0000000000000000");
  CHECK(Conversation(snapshot).ask("g") == before);
}

TEST_CASE("without a description of the machine the area itself tells what it holds") {
  SnapshotBuilder builder;
  std::string area = xsave_area(0);
  put(area, 464, kAvx512);
  builder.process(16).thread(16).last_thread().set_xstate(area);
  Conversation client(builder.build());
  CHECK(contains(client.fetch("features", "target.xml"), "org.gnu.gdb.i386.avx512"));
}

}  // namespace snapgdb::gdbstub
