#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "core/image/snapshot.h"

namespace snapgdb::gui {

// Who in the tree holds what, or will have it from a message: finds the other end of pipes and
// sockets, and descriptors that share one open file description. Built once a snapshot; immutable
// afterwards.
class DescriptorPeers {
 public:
  struct Holder {
    const pb::Process* process = nullptr;  // for one in flight: to whom
    const pb::Descriptor* descriptor = nullptr;
    bool operator==(const Holder&) const = default;
  };

  // Precondition: `snapshot` outlives this.
  explicit DescriptorPeers(const Snapshot& snapshot);

  // Everyone who holds the same open file description, the asker included.
  std::span<const Holder> sharing(const pb::Descriptor& descriptor) const;
  // Who reads what is written to this pipe, writes what is read from it, or has the socket it is
  // connected to.
  std::span<const Holder> other_end(const pb::Descriptor& descriptor) const;
  // Whether it has another end at all: a listening socket has none.
  static bool has_other_end(const pb::Descriptor& descriptor);

 private:
  using Holders = std::vector<Holder>;
  // Device and inode of the pipe, and whether it is the end that is written to.
  using PipeEnd = std::tuple<uint64_t, uint64_t, bool>;
  // Domain, type, local and remote address of a connected internet socket.
  using Connection = std::tuple<int32_t, int32_t, std::string, std::string>;

  void add(Holder holder);

  std::unordered_map<uint32_t, Holders> by_description_;
  std::map<PipeEnd, Holders> by_pipe_end_;
  std::unordered_map<uint64_t, Holders> by_socket_inode_;
  std::map<Connection, Holders> by_connection_;
};

}  // namespace snapgdb::gui
