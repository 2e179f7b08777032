#pragma once

#include <string>

#include "core/image/snapshot.pb.h"

namespace snapgdb {

// Adds the extended attributes (xattr(7)) of the file at `place`, or of the link that is there;
// those that we may read.
void add_attributes(const std::string& place, bool is_link,
                    google::protobuf::RepeatedPtrField<pb::ExtendedAttribute>& out);

}  // namespace snapgdb
