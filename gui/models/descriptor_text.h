#pragma once

#include <QString>

#include "core/image/snapshot.pb.h"

namespace snapgdb::gui {

// "file", "pipe, read end", "TCP socket", …
QString descriptor_kind(const pb::Descriptor& descriptor);
// What is particular to its kind: "count 3", "127.0.0.1:80 to 10.0.0.7:4242, established".
QString descriptor_details(const pb::Descriptor& descriptor);
// "read-write append nonblock cloexec"
QString descriptor_flags(const pb::Descriptor& descriptor);

}  // namespace snapgdb::gui
