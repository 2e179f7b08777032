#include "core/linux/route_netlink.h"

#include <libmnl/libmnl.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>

#include "core/base/error.h"

namespace snapgdb {
namespace {

constexpr const char* kCannotAsk = "cannot ask the kernel for its network";

size_t dump_header(uint16_t type) {
  if (type == RTM_GETLINK) return sizeof(ifinfomsg);
  if (type == RTM_GETADDR) return sizeof(ifaddrmsg);
  if (type == RTM_GETNEIGH) return sizeof(ndmsg);
  if (type == RTM_GETQDISC) return sizeof(tcmsg);
  return sizeof(rtmsg);
}

}  // namespace

std::vector<Attribute> attributes_in(std::string_view rest) {
  std::vector<Attribute> attributes;
  while (rest.size() >= sizeof(nlattr)) {
    const auto header = header_of<nlattr>(rest);
    if (header.nla_len < sizeof header || header.nla_len > rest.size()) break;
    attributes.push_back({static_cast<uint16_t>(header.nla_type & NLA_TYPE_MASK),
                          rest.substr(sizeof header, header.nla_len - sizeof header)});
    rest.remove_prefix(std::min<size_t>(NLA_ALIGN(header.nla_len), rest.size()));
  }
  return attributes;
}

const Attribute* find(const std::vector<Attribute>& attributes, uint16_t type) {
  const auto found = std::ranges::find(attributes, type, &Attribute::type);
  return found == attributes.end() ? nullptr : &*found;
}

RouteSocket::RouteSocket()
    : socket_(mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC), mnl_socket_close) {
  if (!socket_ || mnl_socket_bind(socket_.get(), 0, MNL_SOCKET_AUTOPID) != 0)
    throw_errno(kCannotAsk);
}

std::vector<std::string> RouteSocket::dump(uint16_t type, uint8_t family, uint8_t flags) {
  std::vector<char> buffer(32768);
  nlmsghdr* request = begin(buffer, type, NLM_F_DUMP);
  void* header = mnl_nlmsg_put_extra_header(request, dump_header(type));
  *static_cast<rtgenmsg*>(header) = {family};
  if (type == RTM_GETNEIGH) static_cast<ndmsg*>(header)->ndm_flags = flags;
  send(request);
  std::vector<std::string> messages;
  receive([&](const nlmsghdr* message) {
    messages.emplace_back(static_cast<const char*>(mnl_nlmsg_get_payload(message)),
                          mnl_nlmsg_get_payload_len(message));
  });
  return messages;
}

bool RouteSocket::change(uint16_t type, uint16_t flags,
                         const std::function<void(nlmsghdr*)>& fill) {
  std::vector<char> buffer(65536);
  nlmsghdr* request = begin(buffer, type, static_cast<uint16_t>(flags | NLM_F_ACK));
  fill(request);
  send(request);
  try {
    receive([](const nlmsghdr*) {});
  } catch (const SystemError& error) {
    errno = error.error_number();
    return false;
  }
  return true;
}

bool RouteSocket::replay(uint16_t type, uint16_t flags, std::string_view message) {
  return change(type, flags, [&](nlmsghdr* request) {
    std::memcpy(mnl_nlmsg_put_extra_header(request, message.size()), message.data(),
                message.size());
  });
}

int32_t RouteSocket::number_of(int network) {
  std::vector<char> buffer(1024);
  nlmsghdr* request = begin(buffer, RTM_GETNSID, NLM_F_ACK);
  mnl_nlmsg_put_extra_header(request, sizeof(rtgenmsg));
  mnl_attr_put_u32(request, NETNSA_FD, static_cast<uint32_t>(network));
  send(request);
  int32_t number = NETNSA_NSID_NOT_ASSIGNED;
  receive([&](const nlmsghdr* message) {
    const std::string_view said(static_cast<const char*>(mnl_nlmsg_get_payload(message)),
                                mnl_nlmsg_get_payload_len(message));
    const auto attributes = attributes_of<rtgenmsg>(said);
    if (const Attribute* found = find(attributes, NETNSA_NSID)) number = found->as<int32_t>();
  });
  return number;
}

nlmsghdr* RouteSocket::begin(std::vector<char>& buffer, uint16_t type, uint16_t flags) {
  nlmsghdr* request = mnl_nlmsg_put_header(buffer.data());
  request->nlmsg_type = type;
  request->nlmsg_flags = static_cast<uint16_t>(flags | NLM_F_REQUEST);
  request->nlmsg_seq = ++sequence_;
  return request;
}

void RouteSocket::send(const nlmsghdr* request) {
  if (mnl_socket_sendto(socket_.get(), request, request->nlmsg_len) < 0) throw_errno(kCannotAsk);
}

void RouteSocket::receive(const std::function<void(const nlmsghdr*)>& each) {
  std::vector<char> buffer(256 * 1024);
  int more = 1;
  while (more > 0) {
    const ssize_t n = mnl_socket_recvfrom(socket_.get(), buffer.data(), buffer.size());
    if (n < 0) throw_errno(kCannotAsk);
    more = mnl_cb_run(
        buffer.data(), static_cast<size_t>(n), sequence_, mnl_socket_get_portid(socket_.get()),
        [](const nlmsghdr* message, void* work) {
          (*static_cast<const std::function<void(const nlmsghdr*)>*>(work))(message);
          return MNL_CB_OK;
        },
        const_cast<void*>(static_cast<const void*>(&each)));
    if (more < 0) throw_errno(kCannotAsk);
  }
}

}  // namespace snapgdb
