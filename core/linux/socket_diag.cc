#include "core/linux/socket_diag.h"

#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/packet_diag.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <span>

#include "core/base/error.h"
#include "core/linux/device_number.h"
#include "core/linux/namespaces.h"

namespace snapgdb {
namespace {

Fd open_diag(const Fd& network_namespace) {
  Fd diag;
  const auto open = [&] {
    diag = Fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  };
  network_namespace.valid() ? in_namespace(network_namespace, "net", open) : open();
  return diag;
}

// A request for sockets of a family, and what becomes of each that is told.
template <typename Request>
void ask(const Fd& network_namespace, const Request& request,
         const std::function<void(const nlmsghdr*)>& add) {
  constexpr char kTried[] = "cannot ask the kernel for sockets";
  Fd diag = open_diag(network_namespace);
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
  std::memcpy(mnl_nlmsg_put_extra_header(header, sizeof request), &request, sizeof request);
  if (mnl_socket_sendto(socket.get(), header, header->nlmsg_len) < 0) throw_errno("{}", kTried);

  const auto forward = [](const nlmsghdr* message, void* to) {
    (*static_cast<const std::function<void(const nlmsghdr*)>*>(to))(message);
    return MNL_CB_OK;
  };
  auto* to = const_cast<std::function<void(const nlmsghdr*)>*>(&add);
  int more = MNL_CB_OK;
  while (more > MNL_CB_STOP) {
    const ssize_t n = mnl_socket_recvfrom(socket.get(), buffer.data(), buffer.size());
    if (n < 0) throw_errno("{}", kTried);
    more = mnl_cb_run(buffer.data(), static_cast<size_t>(n), 0, 0, forward, to);
    if (more < 0) throw_errno("{}", kTried);
  }
}

template <typename T>
T payload(const nlattr* attribute) {
  T value{};
  std::memcpy(&value, mnl_attr_get_payload(attribute),
              std::min<size_t>(sizeof value, mnl_attr_get_payload_len(attribute)));
  return value;
}

template <typename T>
std::vector<T> payloads(const nlattr* attribute) {
  std::vector<T> values(mnl_attr_get_payload_len(attribute) / sizeof(T));
  if (!values.empty())
    std::memcpy(values.data(), mnl_attr_get_payload(attribute), values.size() * sizeof(T));
  return values;
}

int add_to_unix_socket(const nlattr* attribute, void* out) {
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
      socket.waiting = payloads<uint32_t>(attribute);
      break;
  }
  return MNL_CB_OK;
}

int add_shutdown(const nlattr* attribute, void* out) {
  if (mnl_attr_get_type(attribute) == INET_DIAG_SHUTDOWN)
    *static_cast<uint8_t*>(out) = payload<uint8_t>(attribute);
  return MNL_CB_OK;
}

int add_memberships(const nlattr* attribute, void* out) {
  if (mnl_attr_get_type(attribute) != PACKET_DIAG_MCLIST) return MNL_CB_OK;
  for (const auto& told : payloads<packet_diag_mclist>(attribute)) {
    PacketMembership membership{.interface = static_cast<int>(told.pdmc_index),
                                .times = told.pdmc_count,
                                .type = told.pdmc_type};
    const auto* address = reinterpret_cast<const char*>(told.pdmc_addr);
    membership.address.assign(address, std::min<size_t>(told.pdmc_alen, sizeof told.pdmc_addr));
    static_cast<std::vector<PacketMembership>*>(out)->push_back(std::move(membership));
  }
  return MNL_CB_OK;
}

}  // namespace

std::map<uint64_t, UnixSocket> unix_sockets(const Fd& network_namespace) {
  unix_diag_req request{};
  request.sdiag_family = AF_UNIX;
  request.udiag_states = UINT32_MAX;
  request.udiag_show = UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN | UDIAG_SHOW_VFS;
  std::map<uint64_t, UnixSocket> sockets;
  ask(network_namespace, request, [&](const nlmsghdr* header) {
    const auto* message = static_cast<const unix_diag_msg*>(mnl_nlmsg_get_payload(header));
    UnixSocket& socket = sockets[message->udiag_ino];
    socket.state = message->udiag_state;
    mnl_attr_parse(header, sizeof *message, add_to_unix_socket, &socket);
  });
  return sockets;
}

std::map<uint64_t, uint8_t> udp_shutdowns(const Fd& network_namespace) {
  std::map<uint64_t, uint8_t> shutdowns;
  for (const uint8_t family : {AF_INET, AF_INET6}) {
    inet_diag_req_v2 request{};
    request.sdiag_family = family;
    request.sdiag_protocol = IPPROTO_UDP;
    request.idiag_states = UINT32_MAX;
    ask(network_namespace, request, [&](const nlmsghdr* header) {
      const auto* message = static_cast<const inet_diag_msg*>(mnl_nlmsg_get_payload(header));
      mnl_attr_parse(header, sizeof *message, add_shutdown, &shutdowns[message->idiag_inode]);
    });
  }
  return shutdowns;
}

std::map<uint64_t, std::vector<PacketMembership>> packet_memberships(const Fd& network_namespace) {
  packet_diag_req request{};
  request.sdiag_family = AF_PACKET;
  request.pdiag_show = PACKET_SHOW_MCLIST;
  std::map<uint64_t, std::vector<PacketMembership>> memberships;
  ask(network_namespace, request, [&](const nlmsghdr* header) {
    const auto* message = static_cast<const packet_diag_msg*>(mnl_nlmsg_get_payload(header));
    mnl_attr_parse(header, sizeof *message, add_memberships, &memberships[message->pdiag_ino]);
  });
  return memberships;
}

}  // namespace snapgdb
