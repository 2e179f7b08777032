#pragma once

#include <sys/socket.h>

#include <string>
#include <vector>

#include "core/resource/socket.h"

// What is queued in unix sockets, and how it is sent again.
namespace snapgdb {

// Room in bytes for everything to fit that did, also where one sends now what several had sent.
inline constexpr int kMuchRoom = 1 << 28;
void give_room(const Fd& socket, int size);

// `files`: numbers of descriptors in it. `sender`: whom it shows; nullptr: nobody. `address`: to
// whom, where the socket is not connected. Throws SystemError.
void send_message(const Fd& from, const pb::QueuedMessage& message, const std::vector<int>& files,
                  const ucred* sender, const std::string* address);

// What had been shut down of it.
void shut_down(const Fd& socket, const pb::Descriptor& record);

// When what is opened late is there: sends the messages that carry it, and what is queued with
// them.
void fill_sockets_late(RestoreContext& context);

}  // namespace snapgdb
