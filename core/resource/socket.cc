#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "core/base/error.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

bool matches(const OpenDescriptor& open) {
  return S_ISSOCK(open.status.st_mode);
}

// The other end of a unix socket, which the socket itself does not tell: asked for once a
// namespace.
uint64_t unix_peer(CaptureContext& context, const OpenDescriptor& open) {
  struct stat theirs {
  }, ours{};
  const Fd theirs_fd = open.process.task_proc.open("ns/net", O_RDONLY);
  const bool known = theirs_fd.valid() && ::fstat(theirs_fd.get(), &theirs) == 0 &&
                     ::stat("/proc/thread-self/ns/net", &ours) == 0;
  if (!known) throw_errno("cannot tell the network namespace");
  const std::lock_guard lock(context.mutex);
  auto found = context.unix_peers.find(theirs.st_ino);
  if (found == context.unix_peers.end()) {
    const Fd nobody;
    found = context.unix_peers.emplace(theirs.st_ino, std::map<uint64_t, uint64_t>()).first;
    found->second = unix_socket_peers(theirs.st_ino == ours.st_ino ? nobody : theirs_fd);
  }
  const auto peer = found->second.find(open.status.st_ino);
  return peer == found->second.end() ? 0 : peer->second;
}

void capture(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::Socket& record = *out.mutable_socket();
  const Fd socket = duplicate_descriptor(open.process.a_task(), open.number);
  if (!socket.valid()) {
    record.set_why_incomplete("pidfd_getfd(2) is refused: " + errno_text(errno));
    context.lacks(open.process.pid, {}, open.target, record.why_incomplete());
    return;
  }
  const SocketDescription description = describe_socket(socket);
  record.set_domain(description.domain);
  record.set_type(description.type);
  record.set_protocol(description.protocol);
  record.set_local(description.local);
  record.set_remote(description.remote);
  record.set_state(description.state);
  record.set_receive_queue(description.receive_queue);
  record.set_send_queue(description.send_queue);
  if (description.domain != AF_UNIX) return;
  try {
    record.set_peer_inode(unix_peer(context, open));
  } catch (const SystemError& error) {
    record.set_why_incomplete(error.what());
    context.lacks(open.process.pid, {}, "peer of " + open.target, error.what());
  }
}

}  // namespace

const DescriptorResource kSocket{"socket", matches, capture};

}  // namespace snapgdb
