#include "gui/models/descriptor_peers.h"

#include <fcntl.h>
#include <sys/socket.h>

namespace snapgdb::gui {
namespace {

template <typename Map, typename Key>
std::span<const DescriptorPeers::Holder> lookup(const Map& map, const Key& key) {
  const auto found = map.find(key);
  if (found == map.end()) return {};
  return found->second;
}

bool is_connected_internet(const pb::Socket& socket) {
  return (socket.domain() == AF_INET || socket.domain() == AF_INET6) && !socket.local().empty() &&
         !socket.remote().empty() && socket.state() != "listening";
}

bool writes(const pb::Descriptor& descriptor) {
  return (descriptor.flags() & O_ACCMODE) != O_RDONLY;
}
bool reads(const pb::Descriptor& descriptor) {
  return (descriptor.flags() & O_ACCMODE) != O_WRONLY;
}

}  // namespace

DescriptorPeers::DescriptorPeers(const Snapshot& snapshot) {
  for (const pb::Process& process : snapshot.processes())
    for_each_descriptor(process, [&](const pb::Descriptor& descriptor) {
      add({&process, &descriptor});
    });
}

void DescriptorPeers::add(Holder holder) {
  const pb::Descriptor& descriptor = *holder.descriptor;
  if (descriptor.description()) by_description_[descriptor.description()].push_back(holder);
  if (descriptor.has_pipe()) {
    const uint64_t device = descriptor.device(), inode = descriptor.inode();
    if (writes(descriptor)) by_pipe_end_[{device, inode, true}].push_back(holder);
    if (reads(descriptor)) by_pipe_end_[{device, inode, false}].push_back(holder);
  }
  if (!descriptor.has_socket()) return;
  by_socket_inode_[descriptor.inode()].push_back(holder);
  const pb::Socket& socket = descriptor.socket();
  if (is_connected_internet(socket))
    by_connection_[{socket.domain(), socket.type(), socket.local(), socket.remote()}].push_back(
        holder);
}

std::span<const DescriptorPeers::Holder> DescriptorPeers::sharing(
    const pb::Descriptor& descriptor) const {
  return lookup(by_description_, descriptor.description());
}

std::span<const DescriptorPeers::Holder> DescriptorPeers::other_end(
    const pb::Descriptor& descriptor) const {
  if (descriptor.has_pipe())
    return lookup(by_pipe_end_,
                  PipeEnd{descriptor.device(), descriptor.inode(), !writes(descriptor)});
  if (!descriptor.has_socket()) return {};
  const pb::Socket& socket = descriptor.socket();
  if (socket.domain() == AF_UNIX && socket.peer_inode())
    return lookup(by_socket_inode_, socket.peer_inode());
  if (is_connected_internet(socket))
    return lookup(by_connection_,
                  Connection{socket.domain(), socket.type(), socket.remote(), socket.local()});
  return {};
}

bool DescriptorPeers::has_other_end(const pb::Descriptor& descriptor) {
  if (descriptor.has_pipe()) return true;
  if (!descriptor.has_socket()) return false;
  return descriptor.socket().peer_inode() != 0 || is_connected_internet(descriptor.socket());
}

}  // namespace snapgdb::gui
