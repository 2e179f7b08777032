#include "core/base/strings.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace snapgdb {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool is_blank(char c) {
  return c == ' ' || c == '\t';
}

// Length of the UTF-8 sequence at the start of `text`, 0 if there is none (RFC 3629).
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  const size_t length = lead < 0x80   ? 1
                        : lead < 0xc2 ? 0
                        : lead < 0xe0 ? 2
                        : lead < 0xf0 ? 3
                        : lead < 0xf5 ? 4
                                      : 0;
  if (length == 0 || length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  if (length > 2) {  // overlong forms, surrogates, beyond U+10FFFF
    const unsigned char second = byte(1);
    if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) ||
        (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f))
      return 0;
  }
  return length;
}

// `sequence` is one character, utf8_length() long.
char32_t code_point(std::string_view sequence) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(sequence[i]); };
  constexpr unsigned char kOfLead[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
  char32_t point = byte(0) & kOfLead[sequence.size()];
  for (size_t i = 1; i < sequence.size(); ++i) point = point << 6 | (byte(i) & 0x3f);
  return point;
}

// What steers a terminal (C1 controls do, too), or makes a line look like another one: marks,
// embeddings, overrides and isolates of direction (Unicode Standard Annex #9), separators of lines.
bool is_control(char32_t point) {
  static constexpr std::pair<char32_t, char32_t> kControls[] = {{0, 0x1f},        {0x7f, 0x9f},
                                                                {0x61c, 0x61c},   {0x200e, 0x200f},
                                                                {0x2028, 0x202e}, {0x2066, 0x2069}};
  return std::ranges::any_of(kControls, [point](const auto& range) {
    return point >= range.first && point <= range.second;
  });
}

}  // namespace

std::string to_hex(std::span<const std::byte> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  hex.reserve(bytes.size() * 2);
  for (const std::byte b : bytes) {
    hex += kDigits[std::to_integer<unsigned>(b) >> 4];
    hex += kDigits[std::to_integer<unsigned>(b) & 15];
  }
  return hex;
}

std::optional<std::string> from_hex(std::string_view hex) {
  if (hex.size() % 2) return std::nullopt;
  std::string bytes(hex.size() / 2, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) {
    const int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    bytes[i] = static_cast<char>(high << 4 | low);
  }
  return bytes;
}

// Fields are short: asking the library for sets of characters costs a call for each of them.
std::string_view next_field(std::string_view& text) {
  const auto skip = [&](bool blanks) {
    size_t n = 0;
    while (n < text.size() && is_blank(text[n]) == blanks) ++n;
    const std::string_view skipped = text.substr(0, n);
    text.remove_prefix(n);
    return skipped;
  };
  skip(true);
  return skip(false);
}

std::vector<std::string_view> split_blank(std::string_view text) {
  std::vector<std::string_view> fields;
  for (auto field = next_field(text); !field.empty(); field = next_field(text))
    fields.push_back(field);
  return fields;
}

bool has_word(std::string_view text, std::string_view word) {
  for (auto field = next_field(text); !field.empty(); field = next_field(text))
    if (field == word) return true;
  return false;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> fields;
  while (!text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    fields.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return fields;
}

std::string_view trim(std::string_view text) {
  const auto is_space = [](char c) { return is_blank(c) || c == '\n'; };
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

std::string printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    const std::string_view character = text.substr(0, std::max<size_t>(length, 1));
    if (length == 0 || is_control(code_point(character))) {
      for (const char c : character) out += fmt::format("\\{:03o}", static_cast<unsigned char>(c));
    } else {
      out += character == "\\" ? "\\\\" : character;
    }
    text.remove_prefix(character.size());
  }
  return out;
}

std::string human_size(uint64_t bytes) {
  static constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1000 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  if (unit == 0) return fmt::format("{} B", bytes);
  return fmt::format("{:.{}f} {}", value, value < 10 ? 2 : value < 100 ? 1 : 0, kUnits[unit]);
}

std::string human_duration(uint64_t nanoseconds) {
  static constexpr std::array kUnits{"ns", "µs", "ms", "s"};
  auto value = static_cast<double>(nanoseconds);
  size_t unit = 0;
  for (; value >= 1000 && unit + 1 < kUnits.size(); ++unit) value /= 1000;
  return fmt::format("{:.{}f} {}", value,
                     unit == 0 || value >= 100 ? 0
                     : value < 10              ? 2
                                               : 1,
                     kUnits[unit]);
}

}  // namespace snapgdb
