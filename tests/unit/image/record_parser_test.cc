#include "core/image/record_parser.h"

#include <catch2/catch.hpp>
#include <string_view>

#include "core/base/error.h"

using namespace snapgdb;
using Catch::Matchers::Contains;

namespace {

Bytes times(size_t count, std::string_view text) {
  Bytes bytes;
  bytes.reserve(count * text.size());
  for (size_t i = 0; i < count; ++i)
    for (const char c : text) bytes.push_back(static_cast<std::byte>(c));
  return bytes;
}

Bytes serialized(const google::protobuf::Message& record) {
  return times(1, record.SerializeAsString());
}

// Fields of pb::Process on the wire.
constexpr std::string_view kEmptyThread("\xa2\x01\x00", 3), kPid("\x08\x01", 2);

}  // namespace

TEST_CASE("a record is read with all that is in it") {
  pb::Process process;
  process.set_pid(10);
  process.add_arguments("sh");
  process.add_mappings()->set_end(0x2000);
  process.add_threads()->mutable_credentials()->add_groups(4711);
  process.add_descriptors()->mutable_pipe()->add_packets(7);
  const auto read = RecordParser(0).parse<pb::Process>(serialized(process), kProcessChunk);
  CHECK(read.SerializeAsString() == process.SerializeAsString());
}

TEST_CASE("a record of a few megabytes that would become gigabytes in memory is refused") {
  const Bytes threads = times(6'000'000, kEmptyThread);
  CHECK_THROWS_WITH(RecordParser(1000).parse<pb::Process>(threads, kProcessChunk),
                    Contains("PROC") && Contains("far more memory") && Contains("damaged"));
}

TEST_CASE("what records may take is for all of them together, and more in a large image") {
  const Bytes numbers = times(40'000'000, kPid);
  RecordParser small(1000), large(numbers.size());
  CHECK_NOTHROW(small.parse<pb::Process>(numbers, kProcessChunk));
  CHECK_THROWS_WITH(small.parse<pb::Process>(numbers, kProcessChunk), Contains("far more memory"));
  for (int i = 0; i < 2; ++i) CHECK(large.parse<pb::Process>(numbers, kProcessChunk).pid() == 1);
}

TEST_CASE("what is no record is refused") {
  for (const std::string_view wrong : {std::string_view("\xa2\x01\x05\x08", 4),  // cut off
                                       std::string_view("\x0b\x0c", 2),          // a group
                                       std::string_view("\xff", 1)}) {
    CHECK_THROWS_WITH(RecordParser(0).parse<pb::Process>(times(1, wrong), kProcessChunk),
                      Contains("a PROC chunk does not hold what it should"));
  }
}
