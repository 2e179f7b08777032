#include "gdbstub/framing.h"

#include <catch2/catch.hpp>

namespace snapgdb::gdbstub {
namespace {

using Kind = Incoming::Kind;

std::vector<Kind> kinds(const std::vector<Incoming>& all) {
  std::vector<Kind> out;
  for (const Incoming& each : all) out.push_back(each.kind);
  return out;
}

// Without runs, which would make it short.
std::string varied(size_t size) {
  std::string out;
  while (out.size() < size) out += "ab";
  return out.substr(0, size);
}

}  // namespace

TEST_CASE("a packet is framed with its checksum") {
  CHECK(frame("g") == "$g#67");
  CHECK(frame("") == "$#00");
  CHECK(frame("OK") == "$OK#9a");
}

TEST_CASE("what would end a packet is escaped, and comes out as it went in") {
  std::string every_byte;
  for (int i = 0; i < 256; ++i) every_byte += static_cast<char>(i);
  const std::string framed = frame(every_byte);
  CHECK(framed.find('#') == framed.size() - 3);
  CHECK(framed.find('$', 1) == std::string::npos);
  CHECK(framed.find('*') == std::string::npos);
  const auto decoded = Decoder().push(framed);
  REQUIRE(decoded.size() == 1);
  CHECK(decoded[0].payload == every_byte);
}

TEST_CASE(
    "a run of one byte is sent as its number, which is never a character of its own meaning") {
  CHECK(frame("0000") == "$0* #7a");
  CHECK(frame("000") == "$000#90");
  for (const char c : {'0', 'x', '\0', '}', '$', '#', '*', '\xff'})
    for (size_t length = 1; length < 300; ++length) {
      const std::string payload = "a" + std::string(length, c) + "b";
      const std::string framed = frame(payload);
      INFO(length << " times " << c);
      CHECK(framed.find_first_of("#$+-", 1) == framed.size() - 3);
      const auto decoded = Decoder().push(framed);
      REQUIRE(kinds(decoded) == std::vector{Kind::kPacket});
      REQUIRE(decoded[0].payload == payload);
    }
  CHECK(frame(std::string(4096, '0')).size() < 200);
}

TEST_CASE("a stream is cut the same wherever it is split") {
  const std::string stream = "+$m10,4#2e\x03-junk$g#67" + frame("a}b#c");
  const auto whole = Decoder().push(stream);
  REQUIRE(kinds(whole) == std::vector{Kind::kAck, Kind::kPacket, Kind::kInterrupt, Kind::kNack,
                                      Kind::kPacket, Kind::kPacket});
  for (size_t at = 0; at <= stream.size(); ++at) {
    Decoder decoder;
    auto parts = decoder.push(std::string_view(stream).substr(0, at));
    for (Incoming& rest : decoder.push(std::string_view(stream).substr(at)))
      parts.push_back(std::move(rest));
    REQUIRE(kinds(parts) == kinds(whole));
    for (size_t i = 0; i < parts.size(); ++i) CHECK(parts[i].payload == whole[i].payload);
  }
}

TEST_CASE("a wrong checksum is noticed, and the next packet is not lost") {
  for (const std::string damaged : {"$g#68", "$g#xx", "$g#6z", "$h#67"}) {
    const auto items = Decoder().push(damaged + "$g#67");
    REQUIRE(kinds(items) == std::vector{Kind::kDamaged, Kind::kPacket});
  }
}

TEST_CASE("a checksum may have capital letters") {
  CHECK(kinds(Decoder().push("$z#7A")) == std::vector{Kind::kPacket});
}

TEST_CASE("a packet that breaks off is given up when the next one begins") {
  const auto items = Decoder().push("$m123$g#67");
  REQUIRE(kinds(items) == std::vector{Kind::kPacket});
  CHECK(items[0].payload == "g");
}

TEST_CASE("an oversize packet is dropped as a whole and costs no more memory than the limit") {
  const std::string large = frame(varied(kPacketSize + 1));
  const auto items = Decoder().push(large + "$g#67");
  REQUIRE(kinds(items) == std::vector{Kind::kOversize, Kind::kPacket});
  CHECK(items[0].payload.empty());
  CHECK(kinds(Decoder().push(frame(varied(kPacketSize)))) == std::vector{Kind::kPacket});
}

TEST_CASE("an escape at the very end stands for itself") {
  const auto items = Decoder().push("$a}#de");
  REQUIRE(items.size() == 1);
  CHECK(items[0].payload == "a}");
}

TEST_CASE("fitting counts escapes") {
  CHECK(fitting("abc", 2) == 2);
  CHECK(fitting("a#c", 2) == 1);
  CHECK(fitting("a#c", 3) == 2);
  CHECK(fitting("", 3) == 0);
}

}  // namespace snapgdb::gdbstub
