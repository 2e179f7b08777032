// Sockets of AF_UNIX (unix(7)): what they are connected to, their names, and what is queued in
// them. How they are made again is in unix_network.cc.

#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/un.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/message_queue.h"
#include "core/resource/resources.h"
#include "core/resource/unix_network.h"
#include "core/resource/unix_records.h"

namespace snapgdb {
namespace {

// ---- Names --------------------------------------------------------------------------------------

bool is_file(const std::string& path, const UnixSocket& state, struct stat& status) {
  return ::lstat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode) &&
         status.st_ino == state.file_inode;
}

// Where the file lies that the socket is bound to, for us; "" if it has lost its name. A relative
// name may be one of another directory than the process is in now; then the kernel tells it to who
// has CAP_NET_ADMIN.
std::string file_of(const OpenDescriptor& open, const Fd& socket, const std::string& name,
                    const UnixSocket& state, struct stat& status) {
  const bool absolute = name.starts_with('/');
  std::string base = open.process.task_proc.link(absolute ? "root" : "cwd");
  if (base == "/") base.clear();
  const std::string usual = base + (absolute ? "" : "/") + name;
  // Through its own root or working directory: its mounts may be others than ours.
  const std::string proc = open.process.task_proc.path() + "/";
  if (is_file(proc + (absolute ? "root" : "cwd/") + name, state, status)) return usual;
  const Fd file(::ioctl(socket.get(), SIOCUNIXFILE));
  if (!file.valid()) return "";
  char path[4096] = {};
  if (::readlink(fmt::format("/proc/self/fd/{}", file.get()).c_str(), path, sizeof path - 1) < 0)
    return "";
  const bool is_there =
      is_file(path, state, status) || is_file(proc + "root" + path, state, status);
  return is_there ? path : "";
}

void capture_name(const OpenDescriptor& open, const Fd& socket, const UnixSocket& state,
                  pb::Socket& record) {
  const std::string name = unix_name(record.local_address());
  if (name.empty() || name[0] == '\0') return;
  struct stat status {};
  pb::SocketFile& file = *record.mutable_file();
  file.set_path(file_of(open, socket, name, state, status));
  file.set_gone(file.path().empty());
  file.set_device(state.file_device);
  file.set_inode(state.file_inode);
  file.set_mode(status.st_mode);
  file.set_owner(status.st_uid);
  file.set_group(status.st_gid);
}

// ---- Queues -------------------------------------------------------------------------------------

void incomplete(CaptureContext& context, const OpenDescriptor& open, pb::Socket& record,
                const std::string& why) {
  record.set_why_incomplete(why);
  context.lacks(open.process.pid, {}, open.target, why);
}

void capture_queue(CaptureContext& context, const OpenDescriptor& open, const Fd& socket,
                   pb::Socket& record) {
  PeekedQueue queue = peek_queue(socket, record.type(), context.option_guard);
  if (!queue.why_incomplete.empty()) incomplete(context, open, record, queue.why_incomplete);
  for (PeekedMessage& message : queue.messages) {
    pb::QueuedMessage& out = *record.add_queue();
    out.set_content(std::move(message.content));
    out.set_sender(std::move(message.sender));
    out.set_out_of_band(message.out_of_band);
    // Without a number: nobody had asked for credentials when it was sent.
    if (message.credentials && message.credentials->pid != 0)
      out.set_credentials(bytes_of(*message.credentials));
    for (Fd& file : message.descriptors)
      out.add_descriptions(capture_in_flight(context, open.process, std::move(file)));
  }
}

bool is_waiting(CaptureContext& context, uint64_t inode) {
  const std::lock_guard lock(context.mutex);
  for (const auto& [space, sockets] : context.unix_sockets)
    for (const auto& [listener, state] : sockets)
      if (std::ranges::find(state.waiting, inode) != state.waiting.end()) return true;
  return false;
}

// ---- All of it ----------------------------------------------------------------------------------

void capture(CaptureContext& context, const OpenDescriptor& open, const Fd& socket,
             pb::Descriptor& out) {
  pb::Socket& record = *out.mutable_socket();
  UnixSocket state;
  try {
    state = ask_kernel(context, open, socket, context.unix_sockets, unix_sockets);
  } catch (const SystemError& error) {
    incomplete(context, open, record, error.what());
  }
  record.set_peer_inode(state.peer.value_or(0));
  record.set_shutdown(state.shutdown);
  if (record.state() == "listening") record.set_backlog(state.backlog);
  record.mutable_waiting()->Assign(state.waiting.begin(), state.waiting.end());
  if (std::ranges::count(state.waiting, 0u) && context.takes_content_of(open.status.st_ino))
    context.lacks(open.process.pid, {}, "what waits at " + open.target,
                  "what came over connections that nobody has accepted, and whose other ends are "
                  "closed, which cannot be read without taking them away");
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0 &&
      credentials.uid != static_cast<uid_t>(-1))
    record.set_peer_credentials(bytes_of(credentials));
  capture_name(open, socket, state, record);
  if (pollfd poll{socket.get(), 0, 0}; ::poll(&poll, 1, 0) == 1 && poll.revents & POLLERR)
    record.set_state(kReset);
  // The kernel shows it to nobody: no loss that a better capture would spare.
  if (record.send_queue() > 0 && is_waiting(context, open.status.st_ino))
    record.set_why_incomplete(
        "what it has sent over a connection that nobody has accepted cannot be read");
  const bool receives = record.state() != "listening" &&
                        (record.type() == SOCK_DGRAM || !record.remote_address().empty());
  if (receives && context.takes_content_of(open.status.st_ino))
    capture_queue(context, open, socket, record);
}

}  // namespace

std::string unix_name(const std::string& address) {
  constexpr size_t kBegin = offsetof(sockaddr_un, sun_path);
  if (address.size() <= kBegin) return "";
  const std::string name = address.substr(kBegin);
  return name[0] == '\0' ? name : name.substr(0, name.find('\0'));
}

const SocketFamily kUnixSockets{AF_UNIX,
                                capture,
                                unix_obstacle,
                                open_unix_socket,
                                finish_unix_sockets,
                                is_unix_socket_from_outside};

}  // namespace snapgdb
