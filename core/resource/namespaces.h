#pragma once

#include <string_view>
#include <vector>

#include "core/image/snapshot.pb.h"
#include "core/linux/procfs.h"

namespace snapgdb {

// Those that /proc/PID/ns shows, by kind; namespaces(7).
std::vector<pb::Namespace> namespaces_of(const ProcDirectory& proc);

using Namespaces = google::protobuf::RepeatedPtrField<pb::Namespace>;
// The inode of one; 0: it is not known.
uint64_t namespace_in(const Namespaces& namespaces, std::string_view kind);

}  // namespace snapgdb
