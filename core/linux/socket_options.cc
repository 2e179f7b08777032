#include "core/linux/socket_options.h"

#include <asm/socket.h>
#include <linux/filter.h>
#include <linux/net_tstamp.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <optional>

#include "core/base/error.h"

// Newer than the C library's headers.
#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72  // Linux 5.14
#endif
#ifndef SO_TXREHASH
#define SO_TXREHASH 74  // 5.18
#endif
#ifndef SO_RCVMARK
#define SO_RCVMARK 75  // 5.19
#endif
#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76  // 6.5
#endif
#ifndef SO_RCVPRIORITY
#define SO_RCVPRIORITY 82  // 6.14
#endif
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83  // 6.16
#endif

namespace snapgdb {
namespace {

int as_int(std::span<const std::byte> value) {
  int number = 0;
  std::memcpy(&number, value.data(), std::min(value.size(), sizeof number));
  return number;
}

bool set_int(int socket, int name, int value) {
  return ::setsockopt(socket, SOL_SOCKET, name, &value, sizeof value) == 0;
}

// The kernel doubles what it is given, and who may (CAP_NET_ADMIN) goes beyond net.core.*mem_max
// (socket(7)). Sizes that it has chosen itself may be odd ones.
bool set_buffer_size(int socket, const SocketOption& option, std::span<const std::byte> value) {
  const int wanted = as_int(value),
            forcing = option.name == SO_SNDBUF ? SO_SNDBUFFORCE : SO_RCVBUFFORCE;
  const auto has_it = [&] {
    int now = 0;
    return option.read(socket, option, std::as_writable_bytes(std::span(&now, 1))) >= 0 &&
           now / 2 == wanted / 2;
  };
  if (!set_int(socket, option.name, wanted / 2)) return false;
  if (has_it()) return true;
  if (!set_int(socket, forcing, wanted / 2)) return false;
  if (has_it()) return true;
  errno = ERANGE;
  return false;
}

// The length of a filter is counted in instructions; it is told to who has no room.
ssize_t read_filter(int socket, const SocketOption& option, std::span<std::byte> value) {
  auto count = static_cast<socklen_t>(value.size() / sizeof(sock_filter));
  if (::getsockopt(socket, SOL_SOCKET, option.name, value.data(), &count) != 0) return -1;
  return static_cast<ssize_t>(count * sizeof(sock_filter));
}

bool set_filter(int socket, const SocketOption& option, std::span<const std::byte> value) {
  std::vector<sock_filter> instructions(value.size() / sizeof(sock_filter));
  if (instructions.empty()) return set_int(socket, SO_DETACH_FILTER, 0) || errno == ENOENT;
  std::memcpy(instructions.data(), value.data(), instructions.size() * sizeof(sock_filter));
  const sock_fprog program{static_cast<unsigned short>(instructions.size()), instructions.data()};
  return ::setsockopt(socket, SOL_SOCKET, option.name, &program, sizeof program) == 0;
}

#define SNAPGDB_OPTION(name) SOL_SOCKET, name, #name
// The sizes of buffers come before the lock that says whether they were chosen; filters before
// what locks them. Of time stamps, at most one of old and new is told as set.
constexpr SocketOption kCommon[] = {
    {SNAPGDB_OPTION(SO_DEBUG)},
    {SNAPGDB_OPTION(SO_REUSEADDR)},
    {SNAPGDB_OPTION(SO_REUSEPORT)},
    {SNAPGDB_OPTION(SO_DONTROUTE)},
    {SNAPGDB_OPTION(SO_BROADCAST)},
    {SNAPGDB_OPTION(SO_SNDBUF), sizeof(int), set_buffer_size},
    {SNAPGDB_OPTION(SO_RCVBUF), sizeof(int), set_buffer_size},
    {SNAPGDB_OPTION(SO_BUF_LOCK)},
    {SNAPGDB_OPTION(SO_KEEPALIVE)},
    {SNAPGDB_OPTION(SO_OOBINLINE)},
    {SNAPGDB_OPTION(SO_NO_CHECK)},
    {SNAPGDB_OPTION(SO_PRIORITY)},
    {SNAPGDB_OPTION(SO_LINGER), sizeof(linger)},
    {SNAPGDB_OPTION(SO_PASSCRED)},
    {SNAPGDB_OPTION(SO_PASSSEC)},
    {SNAPGDB_OPTION(SO_PASSPIDFD)},
    {SNAPGDB_OPTION(SO_PASSRIGHTS)},
    {SNAPGDB_OPTION(SO_RCVLOWAT)},
    {SNAPGDB_OPTION(SO_RCVTIMEO_OLD), sizeof(timeval)},
    {SNAPGDB_OPTION(SO_SNDTIMEO_OLD), sizeof(timeval)},
    {SNAPGDB_OPTION(SO_TIMESTAMP_OLD)},
    {SNAPGDB_OPTION(SO_TIMESTAMPNS_OLD)},
    {SNAPGDB_OPTION(SO_TIMESTAMP_NEW)},
    {SNAPGDB_OPTION(SO_TIMESTAMPNS_NEW)},
    {SNAPGDB_OPTION(SO_TIMESTAMPING_OLD), sizeof(so_timestamping)},
    {SNAPGDB_OPTION(SO_TIMESTAMPING_NEW), sizeof(so_timestamping)},
    {SNAPGDB_OPTION(SO_BINDTODEVICE), 16},  // IFNAMSIZ
    {SNAPGDB_OPTION(SO_MARK)},
    {SNAPGDB_OPTION(SO_INCOMING_CPU)},
    {SNAPGDB_OPTION(SO_RXQ_OVFL)},
    {SNAPGDB_OPTION(SO_PEEK_OFF)},
    {SNAPGDB_OPTION(SO_NOFCS)},
    {SNAPGDB_OPTION(SO_SELECT_ERR_QUEUE)},
    {SNAPGDB_OPTION(SO_BUSY_POLL)},
    {SNAPGDB_OPTION(SO_PREFER_BUSY_POLL)},
    {SNAPGDB_OPTION(SO_BUSY_POLL_BUDGET)},
    {SNAPGDB_OPTION(SO_MAX_PACING_RATE), sizeof(uint64_t)},
    {SNAPGDB_OPTION(SO_ZEROCOPY)},
    {SNAPGDB_OPTION(SO_TXTIME), sizeof(sock_txtime)},
    {SNAPGDB_OPTION(SO_TXREHASH)},
    {SNAPGDB_OPTION(SO_RCVMARK)},
    {SNAPGDB_OPTION(SO_RCVPRIORITY)},
    {SNAPGDB_OPTION(SO_ATTACH_FILTER), 0, set_filter, read_filter},
    {SNAPGDB_OPTION(SO_LOCK_FILTER)},
};
#undef SNAPGDB_OPTION

std::optional<std::string> value_of(const Fd& socket, const SocketOption& option) {
  std::string value(option.size, '\0');
  const auto read = [&] {
    return option.read(socket.get(), option, std::as_writable_bytes(std::span(value)));
  };
  ssize_t size = read();
  if (size > static_cast<ssize_t>(value.size())) {
    value.resize(static_cast<size_t>(size));
    size = read();
  }
  if (size < 0) return std::nullopt;
  value.resize(static_cast<size_t>(size));
  return value;
}

}  // namespace

bool SocketOption::set_as_read(int socket, const SocketOption& option,
                               std::span<const std::byte> value) {
  return ::setsockopt(socket, option.level, option.name, value.data(),
                      static_cast<socklen_t>(value.size())) == 0;
}

ssize_t SocketOption::read_plainly(int socket, const SocketOption& option,
                                   std::span<std::byte> value) {
  auto size = static_cast<socklen_t>(value.size());
  if (::getsockopt(socket, option.level, option.name, value.data(), &size) != 0) return -1;
  return static_cast<ssize_t>(std::min<size_t>(size, value.size()));
}

std::span<const SocketOption> common_socket_options() {
  return kCommon;
}

std::vector<SocketOptionValue> read_socket_options(const Fd& socket,
                                                   std::span<const SocketOption> table,
                                                   std::span<const int> levels) {
  std::vector<SocketOptionValue> values;
  for (const SocketOption& option : table) {
    if (!std::ranges::count(levels, option.level)) continue;
    if (auto value = value_of(socket, option))
      values.push_back({option.level, option.name, std::move(*value)});
  }
  return values;
}

std::vector<std::string> set_socket_options(const Fd& socket,
                                            std::span<const SocketOptionValue> values,
                                            std::span<const SocketOption> table) {
  std::vector<std::string> failures;
  for (const SocketOption& option : table) {
    const auto wanted = std::ranges::find_if(values, [&](const SocketOptionValue& value) {
      return value.level == option.level && value.name == option.name;
    });
    if (wanted == values.end() || value_of(socket, option) == wanted->value) continue;
    if (!option.set(socket.get(), option, std::as_bytes(std::span(wanted->value))))
      failures.push_back(fmt::format("{}: {}", option.words, errno_text(errno)));
  }
  return failures;
}

}  // namespace snapgdb
