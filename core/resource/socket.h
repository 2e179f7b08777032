#pragma once

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

// Between the schema and core/linux/socket_options.h.
void capture_options(const Fd& socket, std::span<const SocketOption> table, pb::Socket& record);
// Of those in the table; what cannot be set is noted.
void restore_options(OpeningContext& context, const Fd& socket, std::span<const SocketOption> table,
                     const pb::Descriptor& descriptor);

}  // namespace snapgdb
