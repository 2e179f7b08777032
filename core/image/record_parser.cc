#include "core/image/record_parser.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/stubs/logging.h>
#include <google/protobuf/wire_format_lite.h>

#include "core/base/error.h"

namespace snapgdb {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::MessageFactory;
using google::protobuf::internal::WireFormatLite;

// What becomes of one value, with what its container keeps in reserve.
constexpr uint64_t kNumber = 16;
constexpr uint64_t kText = 64;        // without its bytes
constexpr uint64_t kPackedByte = 16;  // the shortest of packed numbers has one byte
constexpr uint64_t kPointer = 16;     // to a message

constexpr int kDeepest = 50;

enum class Finding { kFits, kTooLarge, kBroken };

// Goes through a record without keeping anything of it.
class Estimate {
 public:
  using Sizes = std::map<const Descriptor*, uint64_t>;
  Estimate(const Bytes& payload, uint64_t& left, Sizes& sizes)
      : in_(reinterpret_cast<const uint8_t*>(payload.data()), static_cast<int>(payload.size())),
        left_(left),
        sizes_(sizes) {}

  Finding of(const Descriptor& type, int depth = 0) {
    if (depth == kDeepest) return Finding::kBroken;
    if (!take(size_of(type))) return Finding::kTooLarge;
    while (const uint32_t tag = in_.ReadTag())
      if (const Finding found = of_field(type, tag, depth); found != Finding::kFits) return found;
    return in_.ConsumedEntireMessage() ? Finding::kFits : Finding::kBroken;
  }

 private:
  Finding of_field(const Descriptor& type, uint32_t tag, int depth) {
    switch (WireFormatLite::GetTagWireType(tag)) {
      case WireFormatLite::WIRETYPE_LENGTH_DELIMITED:
        return of_delimited(type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag)), depth);
      case WireFormatLite::WIRETYPE_START_GROUP:  // proto3 has none
      case WireFormatLite::WIRETYPE_END_GROUP:
        return Finding::kBroken;
      default:
        if (!WireFormatLite::SkipField(&in_, tag)) return Finding::kBroken;
        return take(kNumber) ? Finding::kFits : Finding::kTooLarge;
    }
  }

  Finding of_delimited(const FieldDescriptor* field, int depth) {
    int size = 0;
    if (!in_.ReadVarintSizeAsInt(&size)) return Finding::kBroken;
    if (field && field->message_type()) {
      const auto outer = in_.PushLimit(size);
      const Finding found = of(*field->message_type(), depth + 1);
      in_.PopLimit(outer);
      return found;
    }
    const auto bytes = static_cast<uint64_t>(size);
    const bool packed = field && field->is_packable();
    if (!take(packed ? bytes * kPackedByte : kText + bytes)) return Finding::kTooLarge;
    return in_.Skip(size) ? Finding::kFits : Finding::kBroken;
  }

  bool take(uint64_t bytes) {
    const bool fits = bytes <= left_;
    left_ -= fits ? bytes : left_;
    return fits;
  }

  uint64_t size_of(const Descriptor& type) {
    const auto [known, is_new] = sizes_.try_emplace(&type);
    if (is_new)
      known->second =
          kPointer + MessageFactory::generated_factory()->GetPrototype(&type)->SpaceUsedLong();
    return known->second;
  }

  google::protobuf::io::CodedInputStream in_;
  uint64_t& left_;
  Sizes& sizes_;
};

[[noreturn]] void bad(std::string why, std::string help) {
  throw Error("cannot read the image", std::move(why), std::move(help));
}

}  // namespace

void RecordParser::parse_into(Message& record, const Bytes& payload, uint32_t chunk_type) {
  const google::protobuf::LogSilencer silencer;  // it would complain on stderr besides
  const Finding found = Estimate(payload, left_, sizes_).of(*record.GetDescriptor());
  if (found == Finding::kTooLarge)
    bad(fmt::format("its records, up to a {} chunk, take far more memory than an image of its "
                    "size has use for",
                    chunk_type_name(chunk_type)),
        "it is damaged or was forged");
  if (found == Finding::kBroken ||
      !record.ParseFromArray(payload.data(), static_cast<int>(payload.size())))
    bad(fmt::format("a {} chunk does not hold what it should", chunk_type_name(chunk_type)), "");
}

}  // namespace snapgdb
