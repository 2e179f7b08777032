// Sockets of AF_UNIX, unix(7).

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "core/base/error.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

// Asked for once a namespace: a socket itself does not tell its other end.
UnixSocket ask_kernel(CaptureContext& context, const OpenDescriptor& open) {
  struct stat theirs {
  }, ours{};
  const Fd theirs_fd = open.process.task_proc.open("ns/net", O_RDONLY);
  const bool known = theirs_fd.valid() && ::fstat(theirs_fd.get(), &theirs) == 0 &&
                     ::stat("/proc/thread-self/ns/net", &ours) == 0;
  if (!known) throw_errno("cannot tell the network namespace");
  const std::lock_guard lock(context.mutex);
  const auto [found, is_new] = context.unix_sockets.try_emplace(theirs.st_ino);
  if (is_new)
    found->second = unix_sockets(theirs.st_ino == ours.st_ino ? Fd() : Fd(::dup(theirs_fd.get())));
  const auto socket = found->second.find(open.status.st_ino);
  return socket == found->second.end() ? UnixSocket() : socket->second;
}

void capture(CaptureContext& context, const OpenDescriptor& open, const Fd&, pb::Descriptor& out) {
  pb::Socket& record = *out.mutable_socket();
  try {
    const UnixSocket state = ask_kernel(context, open);
    record.set_peer_inode(state.peer.value_or(0));
  } catch (const SystemError& error) {
    record.set_why_incomplete(error.what());
    context.lacks(open.process.pid, {}, "peer of " + open.target, error.what());
  }
}

std::string obstacle(const Snapshot&, const pb::Descriptor&) {
  return "unix sockets cannot be restored yet";
}

Fd open_socket(OpeningContext&, const pb::Descriptor& descriptor) {
  throw Error("cannot open " + descriptor.target(), "unix sockets cannot be restored yet");
}

bool is_from_outside(const Snapshot&, const pb::Descriptor&) {
  return true;
}

}  // namespace

const SocketFamily kUnixSockets{AF_UNIX, capture, obstacle, open_socket, nullptr, is_from_outside};

}  // namespace snapgdb
