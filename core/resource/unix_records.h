#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <set>
#include <string>

#include "core/image/snapshot.h"
#include "core/resource/restorer.h"

namespace snapgdb {

// What the records of unix sockets say; for their plan and their making.

// What stands in a struct sockaddr_un: a path, an abstract name with its leading NUL, or "".
std::string unix_name(const std::string& address);

// Bits of Socket.shutdown (include/net/sock.h: RCV_SHUTDOWN, SEND_SHUTDOWN).
constexpr uint32_t kShutReceive = 1, kShutSend = 2;

inline bool is_unix(const pb::Descriptor& descriptor) {
  return descriptor.has_socket() && descriptor.socket().domain() == AF_UNIX;
}
inline bool is_listening(const pb::Socket& socket) {
  return socket.state() == "listening";
}
inline bool is_connected(const pb::Socket& socket) {
  return !socket.remote_address().empty();
}
inline bool is_datagram(const pb::Socket& socket) {
  return socket.type() == SOCK_DGRAM;
}
inline std::string name_of(const pb::Socket& socket) {
  return unix_name(socket.local_address());
}
inline std::string remote_name_of(const pb::Socket& socket) {
  return unix_name(socket.remote_address());
}
inline bool is_path(const std::string& name) {
  return !name.empty() && name[0] != '\0';
}
// Others find it by its name. That of a connection leads to who listened, or to nobody.
inline bool owns_name(const pb::Socket& socket) {
  return !name_of(socket).empty() && (is_datagram(socket) || !is_connected(socket));
}
inline bool has_file(const pb::Socket& socket) {
  return owns_name(socket) && socket.has_file() && !socket.file().gone();
}

// Connected to a listening socket of the tree, which has not accepted it.
bool waits_in_tree(const Snapshot& snapshot, const pb::Descriptor& descriptor);
bool lost_its_peer(const pb::Socket& socket);

// Those, by inode, whose queue carries what is opened late only. They are filled late, if the other
// end can do it, which is held until then: by the only message that is in the queue meanwhile.
std::set<uint64_t> filled_late(const Snapshot& snapshot, const RestorePlan& plan);

}  // namespace snapgdb
