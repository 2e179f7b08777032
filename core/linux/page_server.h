#pragma once

#include <vector>

#include "core/base/fd.h"
#include "core/base/ids.h"
#include "core/linux/lazy_space.h"

namespace snapgdb {

// Whom to end if memory does not come: nobody may run on with zeros in its place.
struct ServedTree {
  std::vector<Fd> processes = {};  // pidfds
  // The first one in a pid namespace of the tree's own, whose end is that of all; or invalid.
  Fd init = {};
};

// Starts two processes of ours: one brings the pages, touched ones first, and ends when all are
// there; the other has the same descriptors and watches it. Should it fail, or be killed, the tree
// is ended, and it is said why on standard error. Closing a userfaultfd lets faults have zeros, so
// the watcher keeps them open until nobody is left. Throws SystemError.
void start_page_server(std::vector<LazySpace> spaces, const PageSource& source,
                       const ServedTree& tree);

}  // namespace snapgdb
