#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "core/base/fd.h"

namespace snapgdb {

// An option of a socket that getsockopt(2) tells and setsockopt(2) can set again. Tables of them
// are in the order in which they are set.
struct SocketOption {
  using Set = bool (*)(int socket, const SocketOption& option, std::span<const std::byte> value);
  using Read = ssize_t (*)(int socket, const SocketOption& option, std::span<std::byte> value);
  // As setsockopt(2) and getsockopt(2) have it: false, or -1, with errno. What is read is told its
  // size also where there is no room for it.
  static bool set_as_read(int socket, const SocketOption& option, std::span<const std::byte> value);
  static ssize_t read_plainly(int socket, const SocketOption& option, std::span<std::byte> value);

  int level = SOL_SOCKET;
  int name = 0;
  const char* words = "";     // "SO_KEEPALIVE"
  size_t size = sizeof(int);  // of its largest value, or 0
  Set set = set_as_read;
  Read read = read_plainly;
};

struct SocketOptionValue {
  int level = 0, name = 0;
  std::string value;  // as `read` gave it
};

// Those that every kind of socket may have.
std::span<const SocketOption> common_socket_options();

// What the socket tells of those in the table that are of such a level; others it does not have.
// (To ask in vain costs as much as to be told.)
std::vector<SocketOptionValue> read_socket_options(const Fd& socket,
                                                   std::span<const SocketOption> table,
                                                   std::span<const int> levels);
// Sets those of the values that are in the table and are otherwise now. Returns "SO_MARK: Operation
// not permitted" for each that could not be set.
std::vector<std::string> set_socket_options(const Fd& socket,
                                            std::span<const SocketOptionValue> values,
                                            std::span<const SocketOption> table);

}  // namespace snapgdb
