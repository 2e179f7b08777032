// Sockets of the network, with awkward values: connections between a parent and its child with full
// and corked queues and in every state of closing, listening ones, datagrams nobody has read.
//
// --busy     only one connection, over which bytes go round until the end
// --plain    without what only root may read or set: bytes that cannot be sent yet

#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "inet_sockets.h"

namespace {

using namespace target::inet;
using target::expect_call;
using target::expect_equal;
using target::setup;

void hold_unread(Checks& checks) {
  for (const int domain : {AF_INET, AF_INET6}) {
    const Pair pair = connect_pair(domain, loopback(domain));
    const std::string there = pattern(3, domain), back = pattern(100'000, domain + 1);
    send_all(pair.client, there), send_all(pair.server, back);
    set_option(pair.client, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(pair.client, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(pair.client, IPPROTO_TCP, TCP_KEEPIDLE, 4711);
    set_option(pair.server, IPPROTO_TCP, TCP_USER_TIMEOUT, 1234567);
    checks.add([=] {
      expect_bytes("what was sent", pair.server, there);
      expect_bytes("what was answered", pair.client, back);
      expect_equal("TCP_NODELAY", option(pair.client, IPPROTO_TCP, TCP_NODELAY), 1);
      expect_equal("TCP_KEEPIDLE", option(pair.client, IPPROTO_TCP, TCP_KEEPIDLE), 4711);
      expect_equal("SO_KEEPALIVE", option(pair.client, SOL_SOCKET, SO_KEEPALIVE), 1);
      expect_equal("TCP_USER_TIMEOUT", option(pair.server, IPPROTO_TCP, TCP_USER_TIMEOUT), 1234567);
      expect_equal("SO_REUSEADDR", option(pair.server, SOL_SOCKET, SO_REUSEADDR), 0);
      expect_alive("a connection", pair);
    });
  }
}

// Accepted by a socket of both versions.
void hold_mapped(Checks& checks) {
  const int listening = setup("socket", socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  set_option(listening, IPPROTO_IPV6, IPV6_V6ONLY, 0);
  set_option(listening, SOL_SOCKET, SO_REUSEADDR, 1);
  Address any{};
  any.any.sa_family = AF_INET6;
  bind_to(listening, any);
  setup("listen", listen(listening, 3));
  const Address to = loopback(AF_INET, ntohs(name_of(listening).in6.sin6_port));
  const int client = setup("socket", socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  setup("connect", connect(client, &to.any, sizeof to.in));
  const int server = setup("accept", accept(listening, nullptr, nullptr));
  send_all(client, "mapped");
  checks.add([=] {
    expect_bytes("a mapped address", server, "mapped");
    send_all(server, "back");
    expect_bytes("to a mapped address", client, "back");
    expect_equal("IPV6_V6ONLY", option(listening, IPPROTO_IPV6, IPV6_V6ONLY), 0);
    expect_equal("SO_REUSEADDR", option(listening, SOL_SOCKET, SO_REUSEADDR), 1);
    expect_equal("the address", name_of(server).in6.sin6_addr.s6_addr[10], 0xff);
  });
}

// The window of the other end is closed; more cannot be sent.
void hold_full(Checks& checks) {
  const Pair pair = connect_pair();
  const std::string bytes = pattern(16 << 20, 99);
  size_t sent = 0;
  for (int idle = 0; idle < 20;) {
    const ssize_t n = send(pair.client, bytes.data() + sent, bytes.size() - sent, MSG_DONTWAIT);
    if (n > 0)
      sent += static_cast<size_t>(n), idle = 0;
    else
      target::sleep_ms(10), ++idle;
  }
  checks.add([=] {
    expect_bytes("a full queue", pair.server, bytes.substr(0, sent));
    expect_alive("after a full queue", pair);
  });
}

void hold_corked(Checks& checks) {
  const Pair pair = connect_pair();
  set_option(pair.client, IPPROTO_TCP, TCP_CORK, 1);
  send_all(pair.client, "corked");
  checks.add([=] {
    char byte = 0;
    expect_equal("TCP_CORK", option(pair.client, IPPROTO_TCP, TCP_CORK), 1);
    set_option(pair.client, IPPROTO_TCP, TCP_CORK, 0);
    expect_bytes("what was corked", pair.server, "corked");
    expect_equal("more", recv(pair.server, &byte, 1, MSG_DONTWAIT) + 1, 0);
  });
}

void hold_closing(Checks& checks) {
  const Pair half = connect_pair();  // FIN-WAIT-2, CLOSE-WAIT
  send_all(half.client, "last");
  shutdown(half.client, SHUT_WR);
  checks.add([=] {
    expect_equal("fin-wait-2", state_of(half.client), TCP_FIN_WAIT2);
    expect_equal("close-wait", state_of(half.server), TCP_CLOSE_WAIT);
    expect_bytes("before the end", half.server, "last");
    expect_end("half closed", half.server);
    send_all(half.server, "answer");
    expect_bytes("after the end", half.client, "answer");
    close(half.server);
    expect_end("closed", half.client);
  });
  const Pair ended = connect_pair();  // closed by both
  shutdown(ended.client, SHUT_WR);
  shutdown(ended.server, SHUT_WR);
  target::sleep_ms(50);
  checks.add([=] {
    expect_end("closed by both", ended.server);
    expect_equal("sending", send(ended.server, "x", 1, MSG_NOSIGNAL) + 1, 0);
    expect_end("closed by both", ended.client);
  });
}

void hold_unconnected(Checks& checks) {
  const int bound = setup("socket", socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
  bind_to(bound, loopback(AF_INET));
  const uint16_t port = name_of(bound).in.sin_port;
  const int fresh = setup("socket", socket(AF_INET6, SOCK_STREAM, 0));
  checks.add([=] {
    expect_equal("the port", name_of(bound).in.sin_port, port);
    expect_equal("listen", listen(bound, 1), 0);
    expect_equal("O_NONBLOCK", fcntl(bound, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    expect_equal("no port", name_of(fresh).in6.sin6_port, 0);
  });
}

void hold_datagrams(Checks& checks) {
  for (const int domain : {AF_INET, AF_INET6}) {
    const int receiver = setup("socket", socket(domain, SOCK_DGRAM, 0));
    bind_to(receiver, loopback(domain));
    const Address to = name_of(receiver);
    std::vector<std::string> sent{"", "one", "", pattern(60'000, 5), ""};
    std::vector<Address> from;
    for (const std::string& content : sent) {
      const int sender = setup("socket", socket(domain, SOCK_DGRAM, 0));
      bind_to(sender, loopback(domain));
      from.push_back(name_of(sender));
      setup("sendto",
            sendto(sender, content.data(), content.size(), 0, &to.any, sizeof to) >= 0 ? 0 : -1);
      close(sender);
    }
    const int connected = setup("socket", socket(domain, SOCK_DGRAM, 0));
    setup("connect", connect(connected, &to.any, sizeof to));
    setup("send", send(connected, "connected", 9, 0) == 9 ? 0 : -1);
    sent.emplace_back("connected"), from.push_back(name_of(connected));
    checks.add([=] {
      for (size_t i = 0; i < sent.size(); ++i) {
        std::string seen(70'000, '\0');
        Address sender{};
        socklen_t size = sizeof sender;
        const ssize_t n =
            recvfrom(receiver, seen.data(), seen.size(), MSG_DONTWAIT, &sender.any, &size);
        expect_equal("a datagram's size", n, sent[i].size());
        seen.resize(n < 0 ? 0 : n);
        if (seen != sent[i]) target::differs("datagram %zu has another content", i);
        expect_equal("its sender's port", sender.in.sin_port, from[i].in.sin_port);
      }
      expect_equal("send", send(connected, "again", 5, 0), 5);
      char seen[8]{};
      expect_equal("again", recv(receiver, seen, sizeof seen, 0), 5);
      expect_equal("SO_PEEK_OFF", option(receiver, SOL_SOCKET, SO_PEEK_OFF) + 1, 0);
    });
  }
}

void hold_netlink(Checks& checks) {
  const int routes = setup("socket", socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK, address.nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR;
  setup("bind", bind(routes, reinterpret_cast<sockaddr*>(&address), sizeof address));
  checks.add([=] {
    sockaddr_nl seen{};
    socklen_t size = sizeof seen;
    expect_call("getsockname", getsockname(routes, reinterpret_cast<sockaddr*>(&seen), &size));
    expect_equal("groups", seen.nl_groups, RTMGRP_LINK | RTMGRP_IPV4_IFADDR);
  });
}

// Bytes that are counted go round between two processes until the end.
int be_busy() {
  const Pair pair = connect_pair();
  target::Family family;
  if (family.fork_child() == 0) {
    close(pair.client);
    family.announce_ready();
    std::string bytes(30'000, '\0');
    uint64_t expected = 0;
    while (true) {
      const ssize_t n = recv(pair.server, bytes.data(), bytes.size(), 0);
      if (n <= 0) _exit(n == 0 ? target::verdict() : 1);
      for (ssize_t i = 0; i < n; ++i)
        if (static_cast<uint8_t>(bytes[i]) != static_cast<uint8_t>(expected++ * 13))
          target::differs("a byte is another one"), _exit(1);
      send_all(pair.server, bytes.substr(0, n));
    }
  }
  close(pair.server);
  family.wait_for_announcements(1);
  target::Thread sender("sender", [&] {
    uint64_t next = 0;
    std::string bytes;
    pollfd end{STDIN_FILENO, POLLIN, 0};
    while (poll(&end, 1, 0) == 0) {
      bytes.resize(target::mix(next) % 30'000 + 1);
      for (char& byte : bytes) byte = static_cast<char>(next++ * 13);
      send_all(pair.client, bytes);
      expect_bytes("what comes back", pair.client, bytes);
    }
  });
  target::ready();
  target::wait_for_end();
  sender.join();
  expect_equal("SO_REUSEADDR", option(pair.client, SOL_SOCKET, SO_REUSEADDR), 0);
  close(pair.client);
  int status = 0;
  wait(&status);
  expect_equal("the other end", status, 0);
  return target::verdict();
}

}  // namespace

int main(int argc, char** argv) {
  target::prepare_end();
  if (target::has_flag(argc, argv, "--busy")) return be_busy();
  Checks checks;
  hold_unread(checks);
  hold_mapped(checks);
  if (!target::has_flag(argc, argv, "--plain")) hold_full(checks), hold_corked(checks);
  hold_closing(checks);
  hold_unconnected(checks);
  hold_datagrams(checks);
  hold_netlink(checks);
  target::ready();
  target::wait_for_end();
  checks.run();
  return target::verdict();
}
