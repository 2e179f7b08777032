#pragma once

#include "core/linux/socket_options.h"

namespace snapgdb {

// Options of the domains AF_INET, AF_INET6, AF_NETLINK and AF_PACKET, and of the protocols above
// them. A socket tells those that it has.
std::span<const SocketOption> network_options();

}  // namespace snapgdb
