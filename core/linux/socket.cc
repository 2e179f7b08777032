#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <tuple>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/task.h"

namespace snapgdb {
namespace {

// ---- Addresses -------------------------------------------------------------------------------

std::string unix_address(const sockaddr_storage& address, socklen_t size) {
  sockaddr_un unix_name{};
  std::memcpy(&unix_name, &address, std::min<size_t>(size, sizeof unix_name));
  const size_t length = size - offsetof(sockaddr_un, sun_path);
  if (size <= offsetof(sockaddr_un, sun_path) || length > sizeof unix_name.sun_path) return "";
  if (unix_name.sun_path[0] == '\0') return "@" + std::string(unix_name.sun_path + 1, length - 1);
  return std::string(unix_name.sun_path, strnlen(unix_name.sun_path, length));
}

std::string inet_address(const sockaddr_storage& address, socklen_t) {
  sockaddr_in in{};
  std::memcpy(&in, &address, sizeof in);
  std::array<char, INET_ADDRSTRLEN> text{};
  ::inet_ntop(AF_INET, &in.sin_addr, text.data(), text.size());
  return fmt::format("{}:{}", text.data(), ntohs(in.sin_port));
}

std::string inet6_address(const sockaddr_storage& address, socklen_t) {
  sockaddr_in6 in{};
  std::memcpy(&in, &address, sizeof in);
  std::array<char, INET6_ADDRSTRLEN> text{};
  ::inet_ntop(AF_INET6, &in.sin6_addr, text.data(), text.size());
  return fmt::format("[{}]:{}", text.data(), ntohs(in.sin6_port));
}

std::string netlink_address(const sockaddr_storage& address, socklen_t) {
  sockaddr_nl netlink{};
  std::memcpy(&netlink, &address, sizeof netlink);
  return fmt::format("port {} groups {:#x}", netlink.nl_pid, netlink.nl_groups);
}

std::string address_text(const sockaddr_storage& address, socklen_t size) {
  static const std::map<int, std::string (*)(const sockaddr_storage&, socklen_t)> kFormats{
      {AF_UNIX, unix_address},
      {AF_INET, inet_address},
      {AF_INET6, inet6_address},
      {AF_NETLINK, netlink_address}};
  const auto format = kFormats.find(address.ss_family);
  return format == kFormats.end() ? "" : format->second(address, size);
}

// The structure, "" where there is none, and its text.
template <typename Query>
std::pair<std::string, std::string> ask_address(const Fd& socket, Query query) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (query(socket.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) return {};
  return {
      std::string(reinterpret_cast<const char*>(&address), std::min<size_t>(size, sizeof address)),
      address_text(address, size)};
}

// ---- State -----------------------------------------------------------------------------------

int option(const Fd& socket, int name) {
  int value = 0;
  socklen_t size = sizeof value;
  ::getsockopt(socket.get(), SOL_SOCKET, name, &value, &size);
  return value;
}

std::string tcp_state(const Fd& socket) {
  // include/net/tcp_states.h
  static constexpr std::array kNames{"",           "established", "syn-sent",  "syn-received",
                                     "fin-wait-1", "fin-wait-2",  "time-wait", "closed",
                                     "close-wait", "last-ack",    "listening", "closing"};
  tcp_info info{};
  socklen_t size = sizeof info;
  if (::getsockopt(socket.get(), IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return "";
  return info.tcpi_state < kNames.size() ? kNames[info.tcpi_state] : "";
}

std::string state_of(const Fd& socket, const SocketDescription& description) {
  if (description.protocol == IPPROTO_TCP && description.domain != AF_UNIX)
    return tcp_state(socket);
  if (option(socket, SO_ACCEPTCONN)) return "listening";
  sockaddr_storage peer{};
  socklen_t size = sizeof peer;
  const bool connected =
      ::getpeername(socket.get(), reinterpret_cast<sockaddr*>(&peer), &size) == 0;
  return connected ? "connected" : "unconnected";
}

uint32_t queue_size(const Fd& socket, unsigned long which) {
  int bytes = 0;
  return ::ioctl(socket.get(), which, &bytes) == 0 ? static_cast<uint32_t>(bytes) : 0;
}

}  // namespace

SocketDescription describe_socket(const Fd& socket) {
  SocketDescription description;
  description.domain = option(socket, SO_DOMAIN);
  description.type = option(socket, SO_TYPE);
  description.protocol = option(socket, SO_PROTOCOL);
  std::tie(description.local_address, description.local) = ask_address(socket, ::getsockname);
  std::tie(description.remote_address, description.remote) = ask_address(socket, ::getpeername);
  description.state = state_of(socket, description);
  if (description.state != "listening") {  // there, SIOCINQ fails for TCP
    description.receive_queue = queue_size(socket, SIOCINQ);
    description.send_queue = queue_size(socket, SIOCOUTQ);
  }
  return description;
}

}  // namespace snapgdb
