#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace snapgdb {

std::string to_hex(std::span<const std::byte> bytes);
inline std::string to_hex(std::string_view bytes) {
  return to_hex(std::as_bytes(std::span(bytes)));
}
// nullopt unless `hex` is an even number of hexadecimal digits.
std::optional<std::string> from_hex(std::string_view hex);

// The whole of `text` as a number, or nullopt.
template <typename Number>
std::optional<Number> parse_number(std::string_view text, int base = 10) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

// Fields are separated by runs of blanks (spaces and tabs); none is empty.
std::vector<std::string_view> split_blank(std::string_view text);
// Takes the first one off the front of `text`; empty: there is none.
std::string_view next_field(std::string_view& text);
bool has_word(std::string_view text, std::string_view word);  // as one of them
// Every `separator` separates; a last empty field is dropped.
std::vector<std::string_view> split(std::string_view text, char separator);
std::string_view trim(std::string_view text);

// Text from outside made harmless for a terminal: control characters, also those of direction and
// line that Unicode has, and bytes that are not UTF-8 become \ooo, a backslash becomes two.
std::string printable(std::string_view text);

// "1.5 MiB", "17 B": three significant digits, binary units.
std::string human_size(uint64_t bytes);
// "1.24 ms", "17 µs".
std::string human_duration(uint64_t nanoseconds);

}  // namespace snapgdb
