#pragma once

#include "core/base/fd.h"
#include "core/image/snapshot.pb.h"
#include "core/resource/restorer.h"

namespace snapgdb {

// Files that are what /proc tells of a task of the tree ("/proc/12/maps", also of one that has
// ended), namespaces, and what is in a mount namespace below that of the first process: only when
// there are tasks again can they be opened, by one of them.
bool leads_to_tasks(const Snapshot& snapshot, const pb::Descriptor& descriptor);

// Opens it by `open`, or something that stands for it until then.
Fd open_unless_late(OpeningContext& context, const pb::Descriptor& descriptor,
                    Fd (*open)(OpeningContext&, const pb::Descriptor&));
// Not valid: it is none of those. Throws Error.
Fd open_proc_late(LateOpening& opening, const pb::Descriptor& descriptor);

}  // namespace snapgdb
