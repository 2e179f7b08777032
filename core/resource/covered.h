#pragma once

#include <string>

#include "core/base/fd.h"
#include "core/image/snapshot.pb.h"

namespace snapgdb {

struct CaptureContext;
struct OpenDescriptor;

// Whether a mount hides what a descriptor leads to: its name leads into another mount.
bool is_covered(const OpenDescriptor& open);

// Opens what is below the mount that hides it, with flags of open(2): it is the one that was
// captured, or such a file where that one is gone. Takes CAP_SYS_ADMIN (open_tree(2), Linux 5.2).
// Not valid, with errno.
Fd open_covered(const pb::Descriptor& descriptor, int flags);
// Why that is impossible; "" if it is not.
std::string covered_obstacle(const pb::Descriptor& descriptor);

}  // namespace snapgdb
