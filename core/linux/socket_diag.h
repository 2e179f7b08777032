#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/base/fd.h"

// What sock_diag(7) tells of the sockets in a network namespace, by inode. `network_namespace`:
// /proc/PID/ns/net opened, or not valid for our own. Throw SystemError.
namespace snapgdb {

// Those that nobody has a descriptor of are not among them.
struct UnixSocket {
  uint8_t state = 0;              // include/net/tcp_states.h
  std::optional<uint64_t> peer;   // inode; 0: it has none (any more), or is not accepted yet
  uint8_t shutdown = 0;           // 1: it receives nothing more, 2: it sends nothing more
  uint32_t backlog = 0;           // of a listening one
  std::vector<uint32_t> waiting;  // inodes of those it has not accepted yet; 0: gone already
  uint64_t file_device = 0, file_inode = 0;  // of the name it is bound to, in the file system
};
std::map<uint64_t, UnixSocket> unix_sockets(const Fd& network_namespace);

// Of UDP sockets that have a port: 1: it receives nothing more, 2: it sends nothing more.
std::map<uint64_t, uint8_t> udp_shutdowns(const Fd& network_namespace);

// To what the device of a packet socket listens because of it, packet(7).
struct PacketMembership {
  int interface = 0;
  uint32_t times = 1;  // that it was joined
  uint16_t type = 0;   // PACKET_MR_*
  std::string address;
};
std::map<uint64_t, std::vector<PacketMembership>> packet_memberships(const Fd& network_namespace);

}  // namespace snapgdb
