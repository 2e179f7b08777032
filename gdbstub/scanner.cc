#include "gdbstub/scanner.h"

#include <charconv>
#include <limits>
#include <utility>

#include "core/base/strings.h"

namespace snapgdb::gdbstub {
namespace {

[[noreturn]] void malformed(std::string text) {
  throw PacketError{kMalformed, std::move(text)};
}

}  // namespace

uint64_t Scanner::hex() {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value, 16);
  if (error != std::errc{}) malformed("a hexadecimal number was expected");
  rest_.remove_prefix(static_cast<size_t>(end - rest_.data()));
  return value;
}

int64_t Scanner::id() {
  if (rest_.starts_with("-1")) {
    rest_.remove_prefix(2);
    return -1;
  }
  const uint64_t value = hex();
  if (value > std::numeric_limits<int32_t>::max()) malformed("there is no such process or thread");
  return static_cast<int64_t>(value);
}

ThreadPattern Scanner::thread() {
  ThreadPattern pattern;
  if (!skip('p')) {
    pattern.tid = id();
    return pattern;
  }
  pattern.pid = id();
  pattern.tid = skip('.') ? id() : -1;
  return pattern;
}

std::string Scanner::hex_bytes(uint64_t size) {
  if (size > rest_.size() / 2) malformed("hexadecimal digits are missing");
  const std::string_view digits = rest_.substr(0, 2 * size);
  rest_.remove_prefix(digits.size());
  return decoded(digits);
}

bool Scanner::skip(std::string_view text) {
  if (!rest_.starts_with(text)) return false;
  rest_.remove_prefix(text.size());
  return true;
}

void Scanner::expect(char c) {
  if (!skip(c)) malformed(std::string("'") + c + "' was expected");
}

void Scanner::expect_end() const {
  if (!rest_.empty()) malformed("the packet is too long");
}

std::string_view Scanner::until(char separator) {
  const std::string_view field = rest_.substr(0, rest_.find(separator));
  rest_.remove_prefix(field.size());
  skip(separator);
  return field;
}

std::string_view Scanner::take_rest() {
  return std::exchange(rest_, std::string_view{});
}

std::string Scanner::decoded(std::string_view digits) {
  auto bytes = from_hex(digits);
  if (!bytes) malformed("hexadecimal digits were expected");
  return *std::move(bytes);
}

}  // namespace snapgdb::gdbstub
