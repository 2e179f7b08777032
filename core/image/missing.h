#pragma once

#include <string>
#include <vector>

#include "core/image/snapshot.pb.h"

namespace snapgdb {

// "missing from the image: WHAT of WHOM: WHY", of the first ten; and how many more there are.
std::vector<std::string> missing_lines(const pb::SnapshotRecord& record);

}  // namespace snapgdb
