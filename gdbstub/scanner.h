#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/ids.h"

namespace snapgdb::gdbstub {

// What a handler throws for a request that it cannot serve; the session makes an error reply of it.
struct PacketError {
  int code;  // an errno of the protocol: only clients that take no text look at it
  std::string text;
};

// Codes as Linux has them; gdb shows them at most as a number.
inline constexpr int kMalformed = 22;
inline constexpr int kNoSuchThread = 3;
inline constexpr int kNoMemory = 14;
inline constexpr int kNotThere = 2;
inline constexpr int kCannot = 1;

// A thread-id of the protocol. 0: any; -1: all. Without the multiprocess extension, pid is 0.
struct ThreadPattern {
  int64_t pid = 0;
  int64_t tid = 0;

  bool is_any() const { return pid <= 0 && tid <= 0; }
};

// Reads the arguments of a packet from left to right; throws PacketError for what is not as the
// protocol has it.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : rest_(text) {}

  uint64_t hex();
  Pid pid() { return Pid{static_cast<pid_t>(id())}; }
  // "p1f.20", "p1f" (all its threads), "20", "-1".
  ThreadPattern thread();
  // The rest, which must be hexadecimal, decoded.
  std::string hex_bytes() { return decoded(take_rest()); }
  // So many bytes, of two digits each.
  std::string hex_bytes(uint64_t size);
  // Up to `separator`, which is skipped, or to the end; decoded.
  std::string hex_text(char separator) { return decoded(until(separator)); }

  bool skip(char c) { return skip(std::string_view(&c, 1)); }
  bool skip(std::string_view text);
  void expect(char c);
  void expect_end() const;
  std::string_view until(char separator);
  std::string_view take_rest();
  bool at_end() const { return rest_.empty(); }

 private:
  static std::string decoded(std::string_view digits);
  int64_t id();

  std::string_view rest_;
};

}  // namespace snapgdb::gdbstub
