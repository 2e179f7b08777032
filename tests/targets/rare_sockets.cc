// Sockets of the network in states that they seldom have: groups they are in, ports and addresses
// that they share only because of what has been taken back since, connections that nobody has
// accepted, and what is left of some that have ended.
//
// --plain    without what only root may make
// --lost     instead of all that, what no capture can carry

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "inet_sockets.h"

namespace {

using namespace target::inet;
using target::expect_call;
using target::expect_equal;
using target::setup;

Address address_of(const char* host, uint16_t port = 0) {
  Address address{};
  address.any.sa_family = strchr(host, ':') ? AF_INET6 : AF_INET;
  void* where = address.any.sa_family == AF_INET ? static_cast<void*>(&address.in.sin_addr)
                                                 : &address.in6.sin6_addr;
  if (inet_pton(address.any.sa_family, host, where) != 1) target::cannot("inet_pton");
  address.in.sin_port = htons(port);
  return address;
}

unsigned loopback_device() {
  return if_nametoindex("lo");
}

// ---- Groups -------------------------------------------------------------------------------------

struct Filter {
  const char* group;
  uint32_t mode;
  std::vector<const char*> sources;
};

std::string filter_bytes(const Filter& filter) {
  std::string bytes(GROUP_FILTER_SIZE(filter.sources.size()), '\0');
  auto& out = *reinterpret_cast<group_filter*>(bytes.data());
  out.gf_interface = loopback_device(), out.gf_fmode = filter.mode;
  out.gf_numsrc = filter.sources.size();
  const Address group = address_of(filter.group);
  memcpy(&out.gf_group, &group, sizeof group);
  for (size_t i = 0; i < filter.sources.size(); ++i) {
    const Address source = address_of(filter.sources[i]);
    memcpy(&out.gf_slist[i], &source, sizeof source);
  }
  return bytes;
}

int level_of(const Filter& filter) {
  return strchr(filter.group, ':') ? IPPROTO_IPV6 : IPPROTO_IP;
}

void join(int socket, const Filter& filter) {
  const std::string bytes = filter_bytes(filter);
  group_req group{};
  memcpy(&group, bytes.data(), offsetof(group_filter, gf_group));
  memcpy(&group.gr_group, &reinterpret_cast<const group_filter*>(bytes.data())->gf_group,
         sizeof group.gr_group);
  setup("join", setsockopt(socket, level_of(filter), MCAST_JOIN_GROUP, &group, sizeof group));
  setup("MCAST_MSFILTER",
        setsockopt(socket, level_of(filter), MCAST_MSFILTER, bytes.data(), bytes.size()));
}

void expect_member(int socket, const Filter& filter) {
  const std::string wanted = filter_bytes(filter);
  Filter room = filter;
  room.sources.push_back("127.0.0.1");  // for one more than there should be
  std::string seen = filter_bytes(room);
  socklen_t size = seen.size();
  if (getsockopt(socket, level_of(filter), MCAST_MSFILTER, seen.data(), &size) != 0)
    return target::differs("it is no member of %s: %m", filter.group);
  const auto& in = *reinterpret_cast<const group_filter*>(seen.data());
  expect_equal("mode of the filter", in.gf_fmode, filter.mode);
  expect_equal("number of sources", in.gf_numsrc, filter.sources.size());
  for (size_t i = 0; i < filter.sources.size(); ++i) {
    const Address source = address_of(filter.sources[i]);
    const auto& told = reinterpret_cast<const sockaddr_in&>(in.gf_slist[i]);
    if (source.any.sa_family == AF_INET)
      expect_equal("a source", told.sin_addr.s_addr, source.in.sin_addr.s_addr);
  }
}

void hold_groups(Checks& checks) {
  const int udp = make_socket(AF_INET, SOCK_DGRAM), other = make_socket(AF_INET, SOCK_DGRAM);
  const int six = make_socket(AF_INET6, SOCK_DGRAM);
  Address any{};
  any.any.sa_family = AF_INET;
  bind_to(udp, any);
  const std::vector<Filter> filters{
      {"239.1.2.3", MCAST_EXCLUDE, {}},
      {"239.1.2.4", MCAST_EXCLUDE, {"192.0.2.1"}},
      {"239.1.2.5", MCAST_INCLUDE, {"192.0.2.1", "192.0.2.2", "192.0.2.3"}}};
  const Filter sixth{"ff02::4711", MCAST_EXCLUDE, {}};
  for (const Filter& filter : filters) join(udp, filter);
  join(six, sixth);
  join(six, filters[0]);
  const Address group = address_of("239.1.2.3", ntohs(name_of(udp).in.sin_port));
  checks.add([=] {
    for (const Filter& filter : filters) expect_member(udp, filter);
    expect_member(six, sixth);
    expect_member(six, filters[0]);
    group_filter none{};
    memcpy(&none, filter_bytes(filters[0]).data(), GROUP_FILTER_SIZE(0));
    socklen_t size = GROUP_FILTER_SIZE(0);
    expect_equal("who joined nothing",
                 getsockopt(other, IPPROTO_IP, MCAST_MSFILTER, &none, &size) + 1, 0);
    const ip_mreqn through{.imr_multiaddr = {}, .imr_address = {}, .imr_ifindex = 1};
    expect_call("IP_MULTICAST_IF",
                setsockopt(other, IPPROTO_IP, IP_MULTICAST_IF, &through, sizeof through));
    expect_call("sendto", sendto(other, "group", 5, 0, &group.any, sizeof group.in));
    expect_bytes("what is sent to a group", udp, "group");
  });
}

// "1    lo              2     0     0100deadbeef": device, users, addresses that all share.
int users_of_address(const std::string& address) {
  std::ifstream table("/proc/net/dev_mcast");
  std::string number, device, seen;
  int users = 0, global = 0;
  while (table >> number >> device >> users >> global >> seen)
    if (device == "lo" && seen == address) return users;
  return 0;
}

void hold_packet_memberships(Checks& checks) {
  const int packets = setup("socket", socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  packet_mreq group{};
  group.mr_ifindex = static_cast<int>(loopback_device());
  group.mr_type = PACKET_MR_MULTICAST, group.mr_alen = 6;
  memcpy(group.mr_address, "\x01\x00\x5e\x47\x11\x99", 6);
  for (int i = 0; i < 2; ++i)  // as often it has to be left
    setup("join", setsockopt(packets, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &group, sizeof group));
  checks.add([=] {
    expect_equal("users of the address", users_of_address("01005e471199"), 1);
    for (const int left : {1, 0}) {
      expect_call("leave",
                  setsockopt(packets, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &group, sizeof group));
      expect_equal("users of the address", users_of_address("01005e471199"), left);
    }
  });
}

// ---- Ports and addresses ------------------------------------------------------------------------

void hold_shut_down(Checks& checks) {
  for (const int how : {SHUT_RD, SHUT_WR, SHUT_RDWR}) {
    const int receiver = make_socket(AF_INET, SOCK_DGRAM),
              sender = make_socket(AF_INET, SOCK_DGRAM);
    bind_to(receiver, loopback(AF_INET));
    const Address to = name_of(receiver);
    setup("connect", connect(sender, &to.any, sizeof to.in));
    setup("shutdown", shutdown(sender, how));
    checks.add([=] {
      const bool may_send = send(sender, "sent", 4, MSG_NOSIGNAL) == 4;
      expect_equal("sending", may_send, how == SHUT_RD);
      pollfd look{sender, POLLRDHUP, 0};
      expect_equal("the end", poll(&look, 1, 0) == 1, how != SHUT_WR);
    });
  }
}

void hold_shared_ports(Checks& checks) {
  for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
    Address address = loopback(AF_INET);
    std::vector<int> sockets;
    for (int i = 0; i < 3; ++i) {
      sockets.push_back(make_socket(AF_INET, type));
      set_option(sockets[i], SOL_SOCKET, SO_REUSEPORT, 1);
      bind_to(sockets[i], address);
      address = name_of(sockets[i]);
      if (type == SOCK_STREAM) setup("listen", listen(sockets[i], 3));
    }
    for (const int socket : sockets) set_option(socket, SOL_SOCKET, SO_REUSEPORT, 0);
    checks.add([=] {
      for (const int socket : sockets) {
        expect_equal("SO_REUSEPORT", option(socket, SOL_SOCKET, SO_REUSEPORT), 0);
        expect_equal("SO_REUSEADDR", option(socket, SOL_SOCKET, SO_REUSEADDR), 0);
        expect_equal("the port", name_of(socket).in.sin_port, address.in.sin_port);
      }
    });
  }
}

void hold_foreign_addresses(Checks& checks) {
  for (const char* host : {"192.0.2.77", "2001:db8::77"})
    for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
      const Address address = address_of(host);
      const int socket = make_socket(address.any.sa_family, type);
      set_option(socket, IPPROTO_IP, IP_FREEBIND, 1);
      bind_to(socket, address);
      set_option(socket, IPPROTO_IP, IP_FREEBIND, 0);
      const Address name = name_of(socket);
      if (type == SOCK_STREAM) setup("listen", listen(socket, 3));
      checks.add([=] {
        const Address seen = name_of(socket);
        if (memcmp(&seen, &name, sizeof name) != 0) target::differs("%s: another name", host);
        expect_equal("IP_FREEBIND", option(socket, IPPROTO_IP, IP_FREEBIND), 0);
      });
    }
}

// ---- Connections --------------------------------------------------------------------------------

// Without a byte: what is sent to nobody is shown to nobody.
void hold_backlog(Checks& checks) {
  for (const int domain : {AF_INET, AF_INET6}) {
    const int listening = make_socket(domain, SOCK_STREAM);
    bind_to(listening, loopback(domain));
    setup("listen", listen(listening, 5));
    const Address name = name_of(listening);
    std::vector<int> clients;
    for (int i = 0; i < 3; ++i) {
      clients.push_back(make_socket(domain, SOCK_STREAM));
      setup("connect", connect(clients[i], &name.any, sizeof name));
    }
    checks.add([=] {
      for (const int client : clients) {
        Address seen{};
        socklen_t size = sizeof seen;
        pollfd waits{listening, POLLIN, 0};
        expect_equal("one that waits", poll(&waits, 1, 20'000), 1);
        const int server = expect_call("accept", accept(listening, &seen.any, &size));
        expect_equal("its port", seen.in.sin_port, name_of(client).in.sin_port);
        expect_equal("SO_REUSEADDR", option(client, SOL_SOCKET, SO_REUSEADDR), 0);
        send_all(client, "request"), expect_bytes("the request", server, "request");
        send_all(server, "answer"), expect_bytes("the answer", client, "answer");
      }
      pollfd waits{listening, POLLIN, 0};
      expect_equal("others", poll(&waits, 1, 0), 0);
    });
  }
}

void expect_closed(int socket) {
  expect_equal("the state", state_of(socket), TCP_CLOSE);
  pollfd look{socket, POLLIN | POLLRDHUP, 0};
  expect_equal("poll", poll(&look, 1, 0), 1);
  expect_equal("hung up", look.revents & (POLLHUP | POLLRDHUP), POLLHUP | POLLRDHUP);
}

void hold_broken_off(Checks& checks) {
  for (const int domain : {AF_INET, AF_INET6}) {
    const Pair pair = connect_pair(domain, loopback(domain));
    const std::string bytes = pattern(70'000, domain);
    send_all(pair.client, bytes);
    const linger at_once{.l_onoff = 1, .l_linger = 0};
    setup("SO_LINGER", setsockopt(pair.client, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once));
    close(pair.client);
    while (state_of(pair.server) != TCP_CLOSE) target::sleep_ms(1);
    const Address name = name_of(pair.server);
    checks.add([=] {
      expect_closed(pair.server);
      expect_equal("its port", name_of(pair.server).in.sin_port, name.in.sin_port);
      expect_bytes("what came before it was broken off", pair.server, bytes);
      char byte = 0;
      expect_equal("the error", recv(pair.server, &byte, 1, MSG_DONTWAIT) + 1, 0);
      expect_equal("errno", errno, ECONNRESET);
      expect_end("broken off", pair.server);
    });
  }
}

void hold_ended(Checks& checks) {
  const Pair pair = connect_pair();
  send_all(pair.client, "the last words");
  close(pair.client);
  while (state_of(pair.server) != TCP_CLOSE_WAIT) target::sleep_ms(1);
  setup("shutdown", shutdown(pair.server, SHUT_WR));
  while (state_of(pair.server) != TCP_CLOSE) target::sleep_ms(1);
  checks.add([=] {
    expect_closed(pair.server);
    expect_bytes("before both had ended", pair.server, "the last words");
    expect_end("ended by both", pair.server);
    expect_equal("SO_ERROR", option(pair.server, SOL_SOCKET, SO_ERROR), 0);
  });
}

// ---- What nobody can carry ----------------------------------------------------------------------

void hold_lost() {
  const int corked = make_socket(AF_INET, SOCK_DGRAM), refused = make_socket(AF_INET, SOCK_DGRAM);
  bind_to(corked, loopback(AF_INET));
  const Address to = name_of(corked);
  setup("connect", connect(corked, &to.any, sizeof to.in));
  set_option(corked, IPPROTO_UDP, UDP_CORK, 1);
  setup("send", send(corked, "corked", 6, 0) == 6 ? 0 : -1);
  const int gone = make_socket(AF_INET, SOCK_DGRAM);
  bind_to(gone, loopback(AF_INET));
  const Address nobody = name_of(gone);
  close(gone);
  setup("connect", connect(refused, &nobody.any, sizeof nobody.in));
  setup("send", send(refused, "refused", 7, 0) == 7 ? 0 : -1);
  pollfd error{refused, 0, 0};
  setup("an error", poll(&error, 1, 20'000) == 1 ? 0 : -1);
  constexpr int kMptcp = 262;
  setup("MPTCP", socket(AF_INET, SOCK_STREAM, kMptcp));
}

}  // namespace

int main(int argc, char** argv) {
  target::prepare_end();
  Checks checks;
  if (target::has_flag(argc, argv, "--lost")) {
    hold_lost();
  } else {
    hold_groups(checks);
    if (!target::has_flag(argc, argv, "--plain")) hold_packet_memberships(checks);
    hold_shut_down(checks);
    hold_shared_ports(checks);
    hold_foreign_addresses(checks);
    hold_backlog(checks);
    hold_broken_off(checks);
    hold_ended(checks);
  }
  target::ready();
  target::wait_for_end();
  checks.run();
  return target::verdict();
}
