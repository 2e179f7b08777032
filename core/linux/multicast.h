#pragma once

#include <netinet/in.h>

#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/linux/procfs.h"

namespace snapgdb {

// The groups that devices listen to in the network namespace of a task, for whichever of its
// sockets.
std::vector<group_req> multicast_groups(const ProcDirectory& task);

// Those of the groups that the socket is in: struct group_filter, with the sources that it chose.
std::vector<std::string> multicast_memberships(const Fd& socket,
                                               const std::vector<group_req>& groups);
// Returns false and errno if that is impossible. `interface`: 0: the one that the filter names.
bool join_again(const Fd& socket, const std::string& filter, uint32_t interface);

}  // namespace snapgdb
