#pragma once

#include <string>

#include "core/resource/socket.h"

namespace snapgdb {

// Of SocketFamily. All sockets of a tree are made together, when the first of them is opened.
std::string unix_obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor);
Fd open_unix_socket(OpeningContext& context, const pb::Descriptor& descriptor);
void finish_unix_sockets(OpeningContext& context, const RestorePlan& plan,
                         std::span<const Fd> files);
bool is_unix_socket_from_outside(const Snapshot& snapshot, const pb::Descriptor& descriptor);

}  // namespace snapgdb
