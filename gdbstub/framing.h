#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace snapgdb::gdbstub {

// How long a packet may be between '$' and '#', in both directions; the client is told it as
// PacketSize. It has to hold all registers in hexadecimal (4.8 kB with AVX-512). More would cost
// more than it brings: gdb 13 makes a system call for every byte it gets through a pipe, and
// fetches this much of a file for each small piece it wants of it.
inline constexpr size_t kPacketSize = 8 * 1024;

// One thing a client sent.
struct Incoming {
  enum class Kind {
    kPacket,
    kAck,
    kNack,
    kInterrupt,  // ^C
    kDamaged,    // its checksum is wrong
    kOversize,   // longer than kPacketSize; its content was dropped
  };
  Kind kind = Kind::kPacket;
  std::string payload;  // of a packet, escapes undone
};

// Cuts a stream of bytes into packets, however it is split. What stands between packets and is
// neither an acknowledgement nor ^C is skipped.
class Decoder {
 public:
  std::vector<Incoming> push(std::string_view bytes);

 private:
  enum class State { kIdle, kBody, kFirstDigit, kSecondDigit };

  void idle(char c, std::vector<Incoming>& out);
  void body(char c);
  void finish(std::vector<Incoming>& out);

  State state_ = State::kIdle;
  std::string raw_;
  bool oversize_ = false;
  uint8_t sum_ = 0;
  char first_digit_ = 0;
};

// "$payload#xx". Bytes that would end the packet or mean something else in it are escaped, and runs
// of one byte are sent as its number: most of what registers and files consist of is zeros, and the
// client pays for each byte.
std::string frame(std::string_view payload);
// The same of what is sent unasked, and never acknowledged.
std::string frame_notification(std::string_view payload);

// How many bytes of `data` can be sent escaped in `room` bytes.
size_t fitting(std::string_view data, size_t room);

}  // namespace snapgdb::gdbstub
