#pragma once

#include <string>

#include "core/image/snapshot.pb.h"

namespace snapgdb::cli {

// "pipe", "socket", "eventfd" …
std::string descriptor_kind(const pb::Descriptor& descriptor);
// "r", "w", "rw", "path", then ",append", ",nonblock", ",cloexec" as they apply.
std::string access_text(const pb::Descriptor& descriptor);
// What is particular to its kind: "count 7", "tcp 127.0.0.1:80 listening" …
std::string descriptor_text(const pb::Descriptor& descriptor);

}  // namespace snapgdb::cli
