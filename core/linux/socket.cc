#include <arpa/inet.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <memory>
#include <span>
#include <tuple>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/namespaces.h"
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

// ---- unix_diag -------------------------------------------------------------------------------

using UnixSockets = std::map<uint64_t, UnixSocket>;

template <typename T>
T payload(const nlattr* attribute) {
  T value{};
  std::memcpy(&value, mnl_attr_get_payload(attribute),
              std::min<size_t>(sizeof value, mnl_attr_get_payload_len(attribute)));
  return value;
}

// The kernel's own device number, in 32 bits (MAJOR(), include/linux/kdev_t.h).
uint64_t device_of(uint32_t number) {
  return makedev(number >> 20, number & 0xfffff);
}

int add_attribute(const nlattr* attribute, void* out) {
  UnixSocket& socket = *static_cast<UnixSocket*>(out);
  switch (mnl_attr_get_type(attribute)) {
    case UNIX_DIAG_PEER:
      socket.peer = payload<uint32_t>(attribute);
      break;
    case UNIX_DIAG_SHUTDOWN:
      socket.shutdown = payload<uint8_t>(attribute);
      break;
    case UNIX_DIAG_RQLEN:
      socket.backlog = payload<unix_diag_rqlen>(attribute).udiag_wqueue;
      break;
    case UNIX_DIAG_VFS: {
      const auto file = payload<unix_diag_vfs>(attribute);
      socket.file_inode = file.udiag_vfs_ino, socket.file_device = device_of(file.udiag_vfs_dev);
      break;
    }
    case UNIX_DIAG_ICONS:
      socket.waiting.resize(mnl_attr_get_payload_len(attribute) / sizeof(uint32_t));
      std::memcpy(socket.waiting.data(), mnl_attr_get_payload(attribute),
                  socket.waiting.size() * sizeof(uint32_t));
      break;
  }
  return MNL_CB_OK;
}

int add_socket(const nlmsghdr* header, void* sockets) {
  const auto* message = static_cast<const unix_diag_msg*>(mnl_nlmsg_get_payload(header));
  UnixSocket& socket = (*static_cast<UnixSockets*>(sockets))[message->udiag_ino];
  socket.state = message->udiag_state;
  return mnl_attr_parse(header, sizeof *message, add_attribute, &socket);
}

Fd open_diag() {
  return Fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
}

UnixSockets ask_unix_diag(Fd diag) {
  constexpr char kTried[] = "cannot ask the kernel for unix sockets";
  if (!diag.valid()) throw_errno("{}", kTried);
  const std::unique_ptr<mnl_socket, int (*)(mnl_socket*)> socket(mnl_socket_fdopen(diag.get()),
                                                                 mnl_socket_close);
  if (socket) diag.release();
  if (!socket || mnl_socket_bind(socket.get(), 0, MNL_SOCKET_AUTOPID) != 0)
    throw_errno("{}", kTried);

  std::array<char, 32768> buffer{};
  nlmsghdr* header = mnl_nlmsg_put_header(buffer.data());
  header->nlmsg_type = SOCK_DIAG_BY_FAMILY;
  header->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  auto* query =
      static_cast<unix_diag_req*>(mnl_nlmsg_put_extra_header(header, sizeof(unix_diag_req)));
  query->sdiag_family = AF_UNIX;
  query->udiag_states = UINT32_MAX;
  query->udiag_show = UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN | UDIAG_SHOW_VFS;
  if (mnl_socket_sendto(socket.get(), header, header->nlmsg_len) < 0) throw_errno("{}", kTried);

  UnixSockets sockets;
  int more = MNL_CB_OK;
  while (more > MNL_CB_STOP) {
    const ssize_t n = mnl_socket_recvfrom(socket.get(), buffer.data(), buffer.size());
    if (n < 0) throw_errno("{}", kTried);
    more = mnl_cb_run(buffer.data(), static_cast<size_t>(n), 0, 0, add_socket, &sockets);
    if (more < 0) throw_errno("{}", kTried);
  }
  return sockets;
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

std::map<uint64_t, UnixSocket> unix_sockets(const Fd& network_namespace) {
  Fd diag;
  if (network_namespace.valid())
    in_namespace(network_namespace, "net", [&] { diag = open_diag(); });
  else
    diag = open_diag();
  return ask_unix_diag(std::move(diag));
}

}  // namespace snapgdb
