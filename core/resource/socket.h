#pragma once

#include "core/base/error.h"
#include "core/linux/socket_options.h"
#include "core/resource/resource.h"
#include "core/resource/restorer.h"

namespace snapgdb {

// What the sockets of a domain (AF_*) have of their own. What all have is in socket.cc: addresses,
// the common options, credentials of the peer.
struct SocketFamily {
  int domain;
  // `socket`: a duplicate of the descriptor.
  void (*capture)(CaptureContext&, const OpenDescriptor&, const Fd& socket, pb::Descriptor&);
  // As of DescriptorRestorer.
  std::string (*obstacle)(const Snapshot&, const pb::Descriptor&);
  Fd (*open)(OpeningContext&, const pb::Descriptor&);
  // When all files of the plan are open: `files` as in RestorePlan.files, not valid where there is
  // none. nullptr: there is nothing left to be done.
  void (*finish)(OpeningContext&, const RestorePlan&, std::span<const Fd> files);
  // As a standard stream, is it what somebody outside of the tree gave it?
  bool (*is_from_outside)(const Snapshot&, const pb::Descriptor&);
};
std::span<const SocketFamily* const> socket_families();

// The network namespace of a socket, and its inode. Throws SystemError.
struct NetworkOfSocket {
  Fd space;  // not valid: ours
  uint64_t inode = 0;
};
NetworkOfSocket network_of(const OpenDescriptor& open, const Fd& socket);

// What sock_diag(7) tells of a socket, a default if it does not; asked for once a namespace, since
// it tells of all of them. Throws SystemError.
template <typename T>
T ask_kernel(CaptureContext& context, const OpenDescriptor& open, const Fd& socket,
             CaptureContext::ByNetwork<T>& known, std::map<uint64_t, T> (*ask)(const Fd&)) {
  const NetworkOfSocket network = network_of(open, socket);
  const std::lock_guard lock(context.mutex);
  auto found = known.find(network.inode);
  if (found == known.end()) found = known.emplace(network.inode, ask(network.space)).first;
  const auto state = found->second.find(open.status.st_ino);
  return state == found->second.end() ? T() : state->second;
}

// The same where it is not worth more than being said to be missing: as `what` of the socket.
template <typename T>
T ask_kernel_if_possible(CaptureContext& context, const OpenDescriptor& open, const Fd& socket,
                         CaptureContext::ByNetwork<T>& known,
                         std::map<uint64_t, T> (*ask)(const Fd&), const char* what) {
  try {
    return ask_kernel(context, open, socket, known, ask);
  } catch (const SystemError& error) {
    context.lacks(open.process.pid, {}, fmt::format("{} of {}", what, open.target), error.what());
    return T();
  }
}

// As the schema has addresses and the like.
template <typename T>
std::string bytes_of(const T& structure) {
  return {reinterpret_cast<const char*>(&structure), sizeof structure};
}

// Socket.state: its other end has broken the connection off, which it has not been told yet.
inline constexpr const char* kReset = "reset";

// Between the schema and core/linux/socket_options.h.
void capture_options(const Fd& socket, std::span<const SocketOption> table, pb::Socket& record);
// Of those in the table; what cannot be set is noted.
void restore_options(OpeningContext& context, const Fd& socket, std::span<const SocketOption> table,
                     const pb::Descriptor& descriptor);

}  // namespace snapgdb
