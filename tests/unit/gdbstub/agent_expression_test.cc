#include "gdbstub/agent_expression.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <catch2/catch.hpp>

#include "core/base/strings.h"
#include "core/image/snapshot_builder.h"
#include "gdbstub/snapshot_target.h"

namespace snapgdb::gdbstub {
namespace {

const ThreadId kThread{Pid{16}, Tid{16}};

SnapshotTarget program() {
  SnapshotBuilder builder;
  builder.process(16)
      .thread(16, 0x401000, 0x7000)
      .memory(0x1000, std::string("\x88\x77\x66\x55\x44\x33\x22\x91", 8), PROT_READ);
  return SnapshotTarget(builder.build());
}

// What code, in hexadecimal, leaves on top.
std::optional<int64_t> value(std::string_view code) {
  return evaluate(from_hex(code).value(), program(), kThread);
}

// The same of two numbers and an operation on them.
std::optional<int64_t> of(int8_t left, int8_t right, std::string_view code) {
  const auto constant = [](int8_t number) {
    return fmt::format("22{:02x}1608", static_cast<uint8_t>(number));
  };
  return value(fmt::format("{}{}{}27", constant(left), constant(right), code));
}

// What printf prints of `format` and of numbers that `arguments` leaves on the stack.
std::string printed(std::string_view format, size_t count = 0, std::string_view arguments = "") {
  const std::string text = std::string(format) + '\0';
  const std::string code =
      fmt::format("{}2200220034{:02x}{:04x}{}27", arguments, count, text.size(), to_hex(text));
  return perform(from_hex(code).value(), program(), kThread);
}

}  // namespace

TEST_CASE("constants are big-endian, of one to eight bytes") {
  CHECK(value("22ff27") == 0xff);
  CHECK(value("23010227") == 0x102);
  CHECK(value("240102030427") == 0x1020304);
  CHECK(value("25ffffffffffffffff27") == -1);
}

TEST_CASE("numbers are reckoned with, signed and unsigned") {
  CHECK(of(7, 3, "02") == 10);
  CHECK(of(7, 9, "03") == -2);
  CHECK(of(-7, 3, "04") == -21);
  CHECK(of(-7, 2, "05") == -3);
  CHECK(of(-1, 2, "06") == INT64_MAX);
  CHECK(of(-7, 2, "07") == -1);
  CHECK(of(-1, 2, "08") == 1);
  CHECK(of(1, 4, "09") == 16);
  CHECK(of(-16, 2, "0a") == -4);
  CHECK(of(-1, 63, "0b") == 1);
  CHECK(of(12, 10, "0f") == 8);
  CHECK(of(12, 10, "10") == 14);
  CHECK(of(12, 10, "11") == 6);
  CHECK(of(5, 5, "13") == 1);
  CHECK(of(-1, 1, "14") == 1);
  CHECK(of(-1, 1, "15") == 0);
  CHECK(of(0, 5, "0e") == 0);
  CHECK(of(0, 5, "12") == -6);
}

TEST_CASE("no number makes the stub fall over") {
  CHECK(of(1, 0, "05") == std::nullopt);
  CHECK(of(1, 0, "06") == std::nullopt);
  CHECK(of(1, 0, "07") == std::nullopt);
  CHECK(of(1, 0, "08") == std::nullopt);
  CHECK(value("25800000000000000025ffffffffffffffff0527") == INT64_MIN);
  CHECK(value("25800000000000000025ffffffffffffffff0727") == 0);
  CHECK(of(1, 64, "09") == 0);
  CHECK(of(1, -1, "0b") == 0);
  CHECK(of(-1, 100, "0a") == -1);
}

TEST_CASE("a number is cut to so many bits, with its sign or without") {
  CHECK(value("22ff160827") == -1);
  CHECK(value("22ff160427") == -1);
  CHECK(value("2277160827") == 0x77);
  CHECK(value("23ffff2a0827") == 0xff);
  CHECK(value("22ff164027") == 0xff);
  CHECK(value("22ff2a4027") == 0xff);
  CHECK(value("22ff160027") == std::nullopt);
}

TEST_CASE("memory is read in the four sizes there are, and has to be there") {
  CHECK(value("2310001727") == 0x88);
  CHECK(value("2310001827") == 0x7788);
  CHECK(value("2310001927") == 0x55667788);
  CHECK(value("2310001a27") == static_cast<int64_t>(0x9122334455667788));
  CHECK(value("2390001727") == std::nullopt);
  CHECK(value("231fff1827") == std::nullopt);  // half of it
}

TEST_CASE("registers go by gdb's numbers, and are at most as wide as a number") {
  CHECK(value("26001027") == 0x401000);
  CHECK(value("26000727") == 0x7000);
  CHECK(value("26001b27") == std::nullopt);  // st0
  CHECK(value("26ffff27") == std::nullopt);
}

TEST_CASE("the stack is turned as gdb's manual says") {
  CHECK(of(1, 2, "03") == -1);
  CHECK(of(1, 2, "2b03") == 1);
  CHECK(of(1, 2, "29") == 1);
  CHECK(of(1, 2, "2802") == 4);
  CHECK(of(1, 2, "3200") == 2);
  CHECK(of(1, 2, "3201") == 1);
  CHECK(of(1, 2, "3202") == std::nullopt);
  CHECK(value("2201220222033327") == 2);  // 1 2 3 becomes 3 1 2
  CHECK(value("220122022203332927") == 1);
  CHECK(value("22012202220333292927") == 3);
}

TEST_CASE("jumps go to an offset, and only where there is code") {
  CHECK(value("2201200008220527220627") == 6);
  CHECK(value("2200200008220527220627") == 5);
  CHECK(value("22092100060027") == 9);
  CHECK(value("210100") == std::nullopt);
}

TEST_CASE("what is damaged, endless or unknown has no value") {
  CHECK(value("") == std::nullopt);
  CHECK(value("27") == std::nullopt);    // nothing on the stack
  CHECK(value("2201") == std::nullopt);  // no end
  CHECK(value("22") == std::nullopt);    // no operand
  CHECK(value("2503") == std::nullopt);
  CHECK(value("220102") == std::nullopt);  // one number too few
  CHECK(value("01") == std::nullopt);      // a code of floating point
  CHECK(value("ff") == std::nullopt);
  CHECK(value("210000") == std::nullopt);      // round and round
  CHECK(value("2201210000") == std::nullopt);  // the stack grows
}

TEST_CASE("printf prints numbers as wide as their types, and strings of the program") {
  const std::string minus_one = "2200220103";  // 0 - 1
  CHECK(printed("all is well\\n\\t\\\"\\101\\\\ 100%%") == "all is well\n\t\"A\\ 100%");
  CHECK(printed("%d", 1, minus_one) == "-1");
  CHECK(printed("%u", 1, minus_one) == "4294967295");
  CHECK(printed("%hhu", 1, minus_one) == "255");
  CHECK(printed("%lu", 1, minus_one) == "18446744073709551615");
  CHECK(printed("%lld", 1, minus_one) == "-1");
  CHECK(printed("[%-6.3x]", 1, "2210") == "[010   ]");
  CHECK(printed("%c", 1, "2241") == "A");
  CHECK(printed("%p", 1, "2210") == "0x10");
  CHECK(printed("%s", 1, "231004") == "D3\"\x91");
  CHECK(printed("%d, then %d", 2, "22022201") == "1, then 2");  // the first one is on top
}

TEST_CASE("a printf that makes no sense says so") {
  const std::string cannot = "(snapgdb cannot perform the rest of that command)\n";
  CHECK(printed("%f", 1, "2201") == cannot);
  CHECK(printed("%99999999999d", 1, "2201") == cannot);
  CHECK(printed("%.99999d", 1, "2201") == cannot);
  CHECK(printed("%ls", 1, "231004") == cannot);
  CHECK(printed("%9999d", 1, "2201").size() == 9999);
  CHECK(printed("a %d", 0) == "a " + cannot);
  CHECK(printed("%d", 1) == cannot);  // nothing on the stack
  CHECK(printed("%") == "");
  for (const char* code : {"22002200340000", "2200220034000002", "220022003400000541", "34000001"})
    CHECK(perform(from_hex(code).value(), program(), kThread) == cannot);
}

TEST_CASE("a condition that cannot be evaluated holds") {
  const SnapshotTarget target = program();
  CHECK(holds(from_hex("220127").value(), target, kThread));
  CHECK_FALSE(holds(from_hex("220027").value(), target, kThread));
  CHECK(holds(from_hex("2390001727").value(), target, kThread));
}

}  // namespace snapgdb::gdbstub
