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

// ---- What waits for files that are opened late --------------------------------------------------

namespace {

// A pair, of which both ends were connected to each other, or are made so.
bool is_filled_by_other_end(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const pb::Socket& socket = descriptor.socket();
  if (!is_datagram(socket)) return !waits_in_tree(snapshot, descriptor);
  const auto is_from_peer = [&](const pb::QueuedMessage& message) {
    return unix_name(message.sender()) == remote_name_of(socket);
  };
  if (!std::ranges::all_of(socket.queue(), is_from_peer)) return false;
  if (lost_its_peer(socket)) return is_connected(socket) && remote_name_of(socket).empty();
  const pb::Descriptor* peer = find_socket(
      snapshot, [&](const pb::Descriptor& other) { return other.inode() == socket.peer_inode(); });
  return peer && peer->socket().peer_inode() == descriptor.inode() &&
         peer->socket().why_incomplete().empty() && unix_obstacle(snapshot, *peer).empty();
}

bool carries_late_files(const Snapshot& snapshot, const RestorePlan& plan,
                        const pb::QueuedMessage& message) {
  return std::ranges::any_of(message.descriptions(), [&](uint32_t description) {
    const auto found = plan.by_description.find(description);
    if (found == plan.by_description.end()) return false;
    const PlannedFile& file = plan.files[found->second];
    return file.how == PlannedFile::How::kOpened && file.descriptor &&
           is_opened_late(snapshot, *file.descriptor);
  });
}

}  // namespace

std::set<uint64_t> filled_late(const Snapshot& snapshot, const RestorePlan& plan) {
  std::set<uint64_t> found;
  for (const PlannedFile& file : plan.files) {
    if (file.how != PlannedFile::How::kOpened || !file.descriptor || !is_unix(*file.descriptor))
      continue;
    const auto carries = [&](const pb::QueuedMessage& message) {
      return carries_late_files(snapshot, plan, message);
    };
    if (std::ranges::any_of(file.descriptor->socket().queue(), carries) &&
        is_filled_by_other_end(snapshot, *file.descriptor))
      found.insert(file.descriptor->inode());
  }
  return found;
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
