#include "core/base/strings.h"

#include <catch2/catch.hpp>

using namespace snapgdb;

TEST_CASE("hexadecimal digits become bytes and back") {
  const std::string bytes("\x00\x7f\xff\x0a", 4);
  CHECK(to_hex(bytes) == "007fff0a");
  CHECK(from_hex("007FfF0a") == bytes);
  CHECK(from_hex("") == "");
  CHECK_FALSE(from_hex("0"));
  CHECK_FALSE(from_hex("0g"));
}

TEST_CASE("a number is the whole text or none") {
  CHECK(parse_number<uint64_t>("18446744073709551615") == UINT64_MAX);
  CHECK_FALSE(parse_number<uint64_t>("18446744073709551616"));
  CHECK(parse_number<int32_t>("-2147483648") == INT32_MIN);
  CHECK_FALSE(parse_number<int>("12 "));
  CHECK_FALSE(parse_number<int>(""));
  CHECK(parse_number<int>("ff", 16) == 255);
}

TEST_CASE("blanks separate fields, however many there are") {
  CHECK(split_blank("  a\t b  ") == std::vector<std::string_view>{"a", "b"});
  CHECK(split_blank(" \t").empty());
  std::string_view text = " a\tbc ";
  CHECK(next_field(text) == "a");
  CHECK(next_field(text) == "bc");
  CHECK(next_field(text).empty());
  CHECK(has_word("rd wr mr", "wr"));
  CHECK_FALSE(has_word("rd wr mr", "r"));
  CHECK_FALSE(has_word("", ""));
  CHECK(split("a,,b,", ',') == std::vector<std::string_view>{"a", "", "b"});
  CHECK(trim(" \ta b\n") == "a b");
  CHECK(trim(" \n").empty());
}

TEST_CASE("text from outside cannot steer the terminal") {
  CHECK(printable("plain äöü €") == "plain äöü €");
  CHECK(printable("\x1b[31m") == "\\033[31m");
  CHECK(printable("a\nb") == "a\\012b");
  CHECK(printable("back\\slash") == "back\\\\slash");
  CHECK(printable("\xff\xfe") == "\\377\\376");
  CHECK(printable("\xc2\x9b") == "\\302\\233");           // CSI as one C1 control
  CHECK(printable("\xed\xa0\x80") == "\\355\\240\\200");  // a surrogate is not UTF-8
  CHECK(printable("\xe2\x82") == "\\342\\202");           // cut off
  CHECK(printable("a\u202eb") == "a\\342\\200\\256b");    // right to left from here on
  CHECK(printable("\u061c") == "\\330\\234");             // a mark of direction
  CHECK(printable("\u2028") == "\\342\\200\\250");        // a line ends
  for (const char* text : {"\u200e", "\u200f", "\u202a", "\u2066", "\u2069", "\u2029"})
    CHECK(printable(text).starts_with('\\'));
  for (const char* text :
       {"\u200d", "\u2027", "\u202f", "\u2065", "\u206a", "\u00a0", "\U0001f600"})
    CHECK(printable(text) == text);
}

TEST_CASE("sizes and durations have three significant digits") {
  CHECK(human_size(0) == "0 B");
  CHECK(human_size(999) == "999 B");
  CHECK(human_size(1536) == "1.50 KiB");
  CHECK(human_size(uint64_t{15} << 30) == "15.0 GiB");
  CHECK(human_size(UINT64_MAX) == "16.0 EiB");
  CHECK(human_duration(17) == "17 ns");
  CHECK(human_duration(1'240'000) == "1.24 ms");
  CHECK(human_duration(uint64_t{7200} * 1'000'000'000) == "7200 s");
}
