#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/base/strings.h"
#include "gdbstub/framing.h"
#include "gdbstub/handlers.h"
#include "gdbstub/run_control.h"

namespace snapgdb::gdbstub {
namespace {

std::string at_address(uint64_t address) {
  return fmt::format("memory at {:#x} cannot be accessed", address);
}

// What there is from `address` on, at most `size` bytes. Throws if there is nothing.
std::string memory(const SessionState& state, uint64_t address, uint64_t size) {
  std::string bytes(size, '\0');
  bytes.resize(state.target->read_memory(state.selected_process(), address,
                                         std::as_writable_bytes(std::span(bytes))));
  if (bytes.empty() && size > 0) throw PacketError{kNoMemory, at_address(address)};
  return bytes;
}

struct Range {
  uint64_t address = 0;
  uint64_t size = 0;
};

Range parse_range(Scanner& arguments, char separator = ',') {
  Range range;
  range.address = arguments.hex();
  arguments.expect(separator);
  range.size = arguments.hex();
  return range;
}

Reply write(SessionState& state, const Range& range, std::string_view bytes) {
  if (bytes.size() != range.size) throw PacketError{kMalformed, "the length does not fit the data"};
  continue_diversion(state, range.address);
  if (!state.target->write_memory(state.selected_process(), range.address,
                                  std::as_bytes(std::span(bytes))))
    throw PacketError{kNoMemory, at_address(range.address)};
  return "OK";
}

constexpr uint64_t kChunk = 64 * 1024;

}  // namespace

Reply read_memory(SessionState& state, Scanner arguments) {
  const Range range = parse_range(arguments);
  arguments.expect_end();
  return to_hex(memory(state, range.address, std::min<uint64_t>(range.size, kPacketSize / 2)));
}

// gdb 16: "b" before the data. Older lldbs probe with an empty read and expect "OK" of a stub that
// speaks their own form of this packet, without the letter.
Reply read_memory_binary(SessionState& state, Scanner arguments) {
  const Range range = parse_range(arguments);
  arguments.expect_end();
  const std::string bytes =
      memory(state, range.address, std::min<uint64_t>(range.size, kPacketSize));
  return "b" + bytes.substr(0, fitting(bytes, kPacketSize - 1));
}

Reply write_memory(SessionState& state, Scanner arguments) {
  const Range range = parse_range(arguments);
  arguments.expect(':');
  return write(state, range, arguments.hex_bytes());
}

Reply write_memory_binary(SessionState& state, Scanner arguments) {
  const Range range = parse_range(arguments);
  arguments.expect(':');
  return write(state, range, arguments.take_rest());
}

// qSearch:memory:ADDRESS;LENGTH;PATTERN. Chunks overlap by what a match may reach beyond one.
Reply search_memory(SessionState& state, Scanner arguments) {
  arguments.expect(':');
  const Range range = parse_range(arguments, ';');
  arguments.expect(';');
  const std::string_view pattern = arguments.take_rest();
  if (pattern.empty()) throw PacketError{kMalformed, "there is nothing to search for"};
  for (uint64_t done = 0; done + pattern.size() <= range.size;) {
    const uint64_t want = std::min(range.size - done, kChunk + pattern.size());
    const std::string bytes = memory(state, range.address + done, want);
    if (const size_t at = bytes.find(pattern); at != std::string::npos)
      return fmt::format("1,{:x}", range.address + done + at);
    if (bytes.size() < want)
      throw PacketError{kNoMemory, at_address(range.address + done + bytes.size())};
    done += want - (pattern.size() - 1);
  }
  return "0";
}

// The checksum of gdb's compare-sections: CRC-32 with polynomial 0x04c11db7, most significant bit
// first, starting from all ones, not inverted at the end.
Reply checksum_memory(SessionState& state, Scanner arguments) {
  arguments.expect(':');
  const Range range = parse_range(arguments);
  uint32_t sum = 0xffffffff;
  for (uint64_t done = 0; done < range.size;) {
    const std::string bytes =
        memory(state, range.address + done, std::min(range.size - done, kChunk));
    for (const char c : bytes) {
      sum ^= static_cast<uint32_t>(static_cast<uint8_t>(c)) << 24;
      for (int bit = 0; bit < 8; ++bit) sum = sum << 1 ^ (sum >> 31 ? 0x04c11db7 : 0);
    }
    done += bytes.size();
  }
  return fmt::format("C{:08x}", sum);
}

}  // namespace snapgdb::gdbstub
