#pragma once

#include <cstdint>
#include <map>

#include "core/image/chunk.h"
#include "core/image/snapshot.pb.h"

namespace snapgdb {

// Parses the records of one snapshot, or the index. An empty message within a record has two bytes,
// of which a compressed image has next to none, and hundreds of bytes in memory: how much memory
// the records will take together is estimated before they are parsed, and limited.
class RecordParser {
 public:
  // `image_size` in bytes: a large image may have large records.
  explicit RecordParser(uint64_t image_size) : left_(kAlways + kPerByte * image_size) {}

  // Throws Error if that is no such record, or if it takes more memory than is left.
  template <typename Record>
  Record parse(const Bytes& payload, uint32_t chunk_type) {
    Record record;
    parse_into(record, payload, chunk_type);
    return record;
  }

 private:
  static constexpr uint64_t kAlways = uint64_t{1} << 30;
  // Records are packed tenfold or so, and take several times their bytes in memory.
  static constexpr uint64_t kPerByte = 64;

  void parse_into(google::protobuf::Message& record, const Bytes& payload, uint32_t chunk_type);

  uint64_t left_;                                                  // bytes of memory
  std::map<const google::protobuf::Descriptor*, uint64_t> sizes_;  // of empty messages
};

}  // namespace snapgdb
