#include "core/inspect/json.h"

#include <fmt/format.h>

#include <map>

#include "core/base/strings.h"
#include "core/image/snapshot.pb.h"

namespace snapgdb {
namespace {

using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using llvm::json::Value;

bool is_hex(const FieldDescriptor& field) {
  return field.options().GetExtension(pb::hex);
}
bool is_blob(const FieldDescriptor& field) {
  return field.options().GetExtension(pb::blob);
}

Value convert(const FieldDescriptor&, bool value) {
  return value;
}
Value convert(const FieldDescriptor&, const EnumValueDescriptor* value) {
  return value->name();
}

Value convert(const FieldDescriptor& field, const std::string& value) {
  return is_blob(field) ? to_hex(value) : printable(value);
}

template <typename Number>
Value convert(const FieldDescriptor& field, Number value) {
  return is_hex(field) ? Value(fmt::format("{:#x}", value)) : Value(value);
}

// How a field of one C++ type is read: alone, or element `i` of a list.
struct Reader {
  Value (*one)(const Reflection&, const Message&, const FieldDescriptor&);
  Value (*element)(const Reflection&, const Message&, const FieldDescriptor&, int i);
};

template <auto kOne, auto kElement>
constexpr Reader reader() {
  return {[](const Reflection& reflection, const Message& message, const FieldDescriptor& field) {
            return convert(field, (reflection.*kOne)(message, &field));
          },
          [](const Reflection& reflection, const Message& message, const FieldDescriptor& field,
             int i) { return convert(field, (reflection.*kElement)(message, &field, i)); }};
}

// The schema has no floating point.
const std::map<FieldDescriptor::CppType, Reader> kReaders = {
    {FieldDescriptor::CPPTYPE_INT32,
     reader<&Reflection::GetInt32, &Reflection::GetRepeatedInt32>()},
    {FieldDescriptor::CPPTYPE_INT64,
     reader<&Reflection::GetInt64, &Reflection::GetRepeatedInt64>()},
    {FieldDescriptor::CPPTYPE_UINT32,
     reader<&Reflection::GetUInt32, &Reflection::GetRepeatedUInt32>()},
    {FieldDescriptor::CPPTYPE_UINT64,
     reader<&Reflection::GetUInt64, &Reflection::GetRepeatedUInt64>()},
    {FieldDescriptor::CPPTYPE_BOOL, reader<&Reflection::GetBool, &Reflection::GetRepeatedBool>()},
    {FieldDescriptor::CPPTYPE_ENUM, reader<&Reflection::GetEnum, &Reflection::GetRepeatedEnum>()},
    {FieldDescriptor::CPPTYPE_STRING,
     reader<&Reflection::GetString, &Reflection::GetRepeatedString>()},
    {FieldDescriptor::CPPTYPE_MESSAGE,
     {[](const Reflection& reflection, const Message& message, const FieldDescriptor& field) {
        return to_json(reflection.GetMessage(message, &field));
      },
      [](const Reflection& reflection, const Message& message, const FieldDescriptor& field,
         int i) { return to_json(reflection.GetRepeatedMessage(message, &field, i)); }}},
};

// Whether the key is there: members of a oneof and messages only if they were set.
bool present(const Reflection& reflection, const Message& message, const FieldDescriptor& field) {
  return field.is_repeated() || !field.has_presence() || reflection.HasField(message, &field);
}

Value field_value(const Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  const Reader& reader = kReaders.at(field.cpp_type());
  if (!field.is_repeated()) return reader.one(reflection, message, field);
  llvm::json::Array list;
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i)
    list.push_back(reader.element(reflection, message, field, i));
  return list;
}

}  // namespace

Value to_json(const Message& message) {
  const auto& descriptor = *message.GetDescriptor();
  llvm::json::Object object;
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    if (present(*message.GetReflection(), message, field))
      object[field.name()] = field_value(message, field);
  }
  return object;
}

}  // namespace snapgdb
