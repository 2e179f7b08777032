#pragma once

#include <google/protobuf/message.h>
#include <llvm/Support/JSON.h>

namespace snapgdb {

// Any record of the schema as JSON, under the schema's own field names. Scalars and lists are
// always there, also where they are empty, so that scripts can rely on the keys; a message that is
// not set is left out. `bytes` are text as printable() shows it, or hexadecimal digits where the
// schema calls them a blob; numbers that it calls hex are strings, "0x1f"; enums are their names.
llvm::json::Value to_json(const google::protobuf::Message& message);

}  // namespace snapgdb
