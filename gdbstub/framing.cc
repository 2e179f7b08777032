#include "gdbstub/framing.h"

#include "core/base/strings.h"

namespace snapgdb::gdbstub {
namespace {

constexpr char kInterruptByte = 0x03;
constexpr char kEscape = '}';
constexpr char kEscapeBit = 0x20;

// '*' would be read as a run length.
bool needs_escape(char c) {
  return c == '$' || c == '#' || c == kEscape || c == '*';
}

std::string unescape(std::string_view raw) {
  std::string payload;
  payload.reserve(raw.size());
  for (size_t i = 0; i < raw.size(); ++i) {
    const bool escaped = raw[i] == kEscape && i + 1 < raw.size();
    payload += escaped ? static_cast<char>(raw[++i] ^ kEscapeBit) : raw[i];
  }
  return payload;
}

}  // namespace

std::vector<Incoming> Decoder::push(std::string_view bytes) {
  std::vector<Incoming> out;
  for (const char c : bytes) switch (state_) {
      case State::kIdle:
        idle(c, out);
        break;
      case State::kBody:
        body(c);
        break;
      case State::kFirstDigit:
        first_digit_ = c;
        state_ = State::kSecondDigit;
        break;
      case State::kSecondDigit: {
        const char digits[] = {first_digit_, c};
        const auto sent = parse_number<uint8_t>({digits, 2}, 16);
        if (sent != sum_) out.push_back({Incoming::Kind::kDamaged, ""});
        if (sent == sum_) finish(out);
        state_ = State::kIdle;
        break;
      }
    }
  return out;
}

void Decoder::idle(char c, std::vector<Incoming>& out) {
  if (c == '+') out.push_back({Incoming::Kind::kAck, ""});
  if (c == '-') out.push_back({Incoming::Kind::kNack, ""});
  if (c == kInterruptByte) out.push_back({Incoming::Kind::kInterrupt, ""});
  if (c == '$') body(c);
}

void Decoder::body(char c) {
  if (c == '$') {  // in a body it is always escaped, so a raw one begins the next packet
    raw_.clear();
    sum_ = 0;
    oversize_ = false;
    state_ = State::kBody;
  } else if (c == '#') {
    state_ = State::kFirstDigit;
  } else {
    sum_ = static_cast<uint8_t>(sum_ + static_cast<uint8_t>(c));
    if (raw_.size() < kPacketSize)
      raw_ += c;
    else
      oversize_ = true;
  }
}

void Decoder::finish(std::vector<Incoming>& out) {
  if (oversize_)
    out.push_back({Incoming::Kind::kOversize, ""});
  else
    out.push_back({Incoming::Kind::kPacket, unescape(raw_)});
}

std::string frame(std::string_view payload) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out = "$";
  out.reserve(payload.size() + 4);
  uint8_t sum = 0;
  const auto add = [&](char c) {
    out += c;
    sum = static_cast<uint8_t>(sum + static_cast<uint8_t>(c));
  };
  for (const char c : payload) {
    if (needs_escape(c)) add(kEscape);
    add(needs_escape(c) ? static_cast<char>(c ^ kEscapeBit) : c);
  }
  out += '#';
  out += kDigits[sum >> 4];
  out += kDigits[sum & 15];
  return out;
}

std::string frame_notification(std::string_view payload) {
  std::string out = frame(payload);
  out.front() = '%';
  return out;
}

size_t fitting(std::string_view data, size_t room) {
  size_t count = 0;
  for (; count < data.size(); ++count) {
    const size_t cost = needs_escape(data[count]) ? 2 : 1;
    if (cost > room) break;
    room -= cost;
  }
  return count;
}

}  // namespace snapgdb::gdbstub
