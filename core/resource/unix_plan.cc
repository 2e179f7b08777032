// Which unix sockets can be made again, and which names are in the way.

#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/resource/mounts.h"
#include "core/resource/spaces.h"
#include "core/resource/unix_makers.h"
#include "core/resource/unix_network.h"
#include "core/resource/unix_records.h"

namespace snapgdb {
namespace {

namespace fs = std::filesystem;

// The first of the snapshot's unix sockets for which `is_it` holds.
const pb::Descriptor* find_socket(const Snapshot& snapshot, const auto& is_it) {
  const pb::Descriptor* found = nullptr;
  for (const pb::Process& process : snapshot.processes())
    for_each_descriptor(process, [&](const pb::Descriptor& descriptor) {
      if (!found && is_unix(descriptor) && is_it(descriptor)) found = &descriptor;
    });
  return found;
}

bool is_in_tree(const Snapshot& snapshot, uint64_t inode) {
  return inode != 0 &&
         find_socket(snapshot, [&](const pb::Descriptor& other) { return other.inode() == inode; });
}

}  // namespace

bool waits_in_tree(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  return find_socket(snapshot, [&](const pb::Descriptor& other) {
    const auto& waiting = other.socket().waiting();
    return std::ranges::find(waiting, descriptor.inode()) != waiting.end();
  });
}

bool lost_its_peer(const pb::Socket& socket) {
  return socket.peer_inode() == 0 &&
         (is_datagram(socket) || socket.shutdown() == (kShutReceive | kShutSend));
}

std::string unix_obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const pb::Socket& socket = descriptor.socket();
  if (!is_connected(socket) || is_in_tree(snapshot, socket.peer_inode()) || lost_its_peer(socket))
    return "";
  if (socket.peer_inode() == 0)
    return waits_in_tree(snapshot, descriptor) ? ""
                                               : "it waits to be accepted from outside of the tree";
  const std::string name = remote_name_of(socket);
  if (!is_datagram(socket) || name.empty()) return "its other end is outside of the tree";
  struct stat status {};
  const bool is_there =
      !is_path(name) || (::stat(name.c_str(), &status) == 0 && S_ISSOCK(status.st_mode));
  return is_there ? "" : printable(name) + ", to which it is connected, is not there";
}

bool is_unix_socket_from_outside(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const pb::Socket& socket = descriptor.socket();
  return is_connected(socket) && !is_in_tree(snapshot, socket.peer_inode()) &&
         !waits_in_tree(snapshot, descriptor);
}

// ---- Names that others have ---------------------------------------------------------------------

namespace {

bool is_bound_to(const struct stat& file) {
  constexpr uint8_t kEstablished = 1;  // include/net/tcp_states.h
  const auto sockets = unix_sockets(Fd());
  return std::ranges::any_of(sockets, [&](const auto& known) {
    return known.second.file_inode == file.st_ino && known.second.state != kEstablished;
  });
}

bool has_directory(const std::string& path) {
  return fs::is_directory(fs::path(path).parent_path());
}

std::string file_obstacle(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) return "";
  if (!S_ISSOCK(status.st_mode)) return "something else lies there";
  return is_bound_to(status) ? "somebody else is bound to it" : "";
}

std::string abstract_obstacle(const pb::Socket& socket) {
  const Fd trial = make_unix_socket(socket.type());
  const auto [address, size] = address_in(socket.local_address());
  return ::bind(trial.get(), address, size) == 0 ? "" : errno_text(errno);
}

}  // namespace

// In a sandbox nobody else has names.
void check_unix_names(const Snapshot& snapshot, RestorePlan& plan) {
  const auto why_not = [&](const pb::Socket& socket) -> std::string {
    if (!is_path(name_of(socket)))
      return plan.isolated || plan.network || is_in_space(plan, socket.network_namespace())
                 ? ""
                 : abstract_obstacle(socket);
    if (!has_file(socket)) return "";
    const auto outside = path_outside(plan.mounts, socket.file().path());
    if (!outside) return "";
    const std::string& path = *outside;
    if (!has_directory(path)) return "its directory is not there";
    return plan.isolated ? "" : file_obstacle(path);
  };
  for (const PlannedFile& file : plan.files) {
    if (file.how != PlannedFile::How::kOpened || !file.descriptor || !is_unix(*file.descriptor))
      continue;
    const pb::Socket& socket = file.descriptor->socket();
    if (!owns_name(socket)) continue;
    if (const std::string why = why_not(socket); !why.empty())
      plan.obstacles.push_back(
          {snapshot.root().pid(), "the name of a socket, " + printable(name_of(socket)), why,
           plan.isolated ? "--without socket" : "--isolated, or --without socket"});
  }
}

}  // namespace snapgdb
