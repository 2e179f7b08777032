#include "gdbstub/framing.h"

#include "core/base/strings.h"

namespace snapgdb::gdbstub {
namespace {

constexpr char kInterruptByte = 0x03;
constexpr char kEscape = '}';
constexpr char kEscapeBit = 0x20;
constexpr char kRun = '*';

bool needs_escape(char c) {
  return c == '$' || c == '#' || c == kEscape || c == kRun;
}

// "0*~" is '0' and 97 more of it: the character behind '*' is the number of repetitions plus 29,
// and has to be a printable one.
constexpr size_t kRunBias = 29, kShortestRun = 4, kLongestRun = '~' - kRunBias + 1;

// Of what `text` begins with. Precondition: it is not empty.
size_t run_length(std::string_view text) {
  const size_t end = text.find_first_not_of(text.front());
  return end == std::string_view::npos ? text.size() : end;
}

// These would end the packet, or be taken for an acknowledgement of it.
bool may_be_count(size_t repeats) {
  return std::string_view("#$+-").find(static_cast<char>(repeats + kRunBias)) ==
         std::string_view::npos;
}

// `count` times `c`. What has to be escaped is two characters, of which only one would be repeated.
void append(std::string& out, char c, size_t count) {
  if (needs_escape(c)) {
    for (; count > 0; --count) (out += kEscape) += static_cast<char>(c ^ kEscapeBit);
  } else if (count < kShortestRun) {
    out.append(count, c);
  } else {
    size_t repeats = count - 1;
    while (!may_be_count(repeats)) --repeats;
    ((out += c) += kRun) += static_cast<char>(repeats + kRunBias);
    out.append(count - 1 - repeats, c);
  }
}

bool is_run(std::string_view rest) {
  return rest.size() > 1 && rest[0] == kRun && rest[1] >= ' ' && rest[1] <= '~';
}

// Clients send no runs; but what is framed here can be read here.
std::string decode(std::string_view raw) {
  std::string payload;
  payload.reserve(raw.size());
  for (size_t i = 0; i < raw.size(); ++i) {
    const bool escaped = raw[i] == kEscape && i + 1 < raw.size();
    if (!payload.empty() && is_run(raw.substr(i)))
      payload.append(static_cast<size_t>(raw[++i]) - kRunBias, payload.back());
    else
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
    out.push_back({Incoming::Kind::kPacket, decode(raw_)});
}

std::string frame(std::string_view payload) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out = "$";
  out.reserve(payload.size() + 4);
  for (size_t at = 0; at < payload.size();) {
    const size_t run = run_length(payload.substr(at, kLongestRun));
    append(out, payload[at], run);
    at += run;
  }
  uint8_t sum = 0;
  for (const char c : std::string_view(out).substr(1))
    sum = static_cast<uint8_t>(sum + static_cast<uint8_t>(c));
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
