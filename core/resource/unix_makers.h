#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/base/fd.h"
#include "core/image/snapshot.h"
#include "core/resource/user_numbers.h"

namespace snapgdb {

// From where a name leads to a socket.
struct Place {
  Fd root, directory;  // not valid: ours
};

// From where its name leads to its file; nullopt: from nowhere that is known.
std::optional<Place> place_of_file(const pb::Socket& socket);

// Throws SystemError.
Fd make_unix_socket(int type);

// As bind(2) and connect(2) take it. Shows `bytes`.
std::pair<const sockaddr*, socklen_t> address_in(const std::string& bytes);

// As whom, and from where, the sockets of a tree are made: the kernel keeps both.
class UnixMakers {
 public:
  // `notes`: gets whom the sockets tell in place of who cannot be had.
  UnixMakers(const Snapshot& snapshot, const UserNumbers& numbers, std::vector<std::string>& notes)
      : snapshot_(snapshot), numbers_(numbers), notes_(notes) {}

  // `credentials`: struct ucred, or "": as ourselves. Throws what `work` throws.
  void perform_as(const std::string& credentials, const Place* place,
                  const std::function<void()>& work);

  // A root directory of its own for each name, in a file system that nobody sees.
  Place hidden_place(const std::string& name);

  void bind(const Fd& fd, const std::string& address, const Place* place);
  // In place of what lies there: it is what the program saw, or what a socket has left that was
  // bound to it.
  void bind_to_file(const Fd& fd, const pb::Socket& socket, const Place& place);

 private:
  const Snapshot& snapshot_;
  const UserNumbers numbers_;
  std::vector<std::string>& notes_;
  std::set<std::string> unknown_;  // credentials that cannot be had
  Fd hidden_;
  size_t hidden_count_ = 0;
};

}  // namespace snapgdb
