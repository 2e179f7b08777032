#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "descriptors.h"

namespace descriptors {
namespace {

using target::expect_equal;
using target::setup;

struct Address {
  sockaddr_storage bytes{};
  socklen_t length = 0;
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&bytes); }
};

// A name that starts with a zero byte is abstract.
Address unix_address(const std::string& name) {
  Address address;
  auto& un = reinterpret_cast<sockaddr_un&>(address.bytes);
  un.sun_family = AF_UNIX;
  memcpy(un.sun_path, name.data(), name.size());
  address.length = offsetof(sockaddr_un, sun_path) + name.size() + (name[0] ? 1 : 0);
  return address;
}

Address loopback(int family) {
  Address address;
  if (family == AF_INET) {
    auto& in = reinterpret_cast<sockaddr_in&>(address.bytes);
    in = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    address.length = sizeof in;
  } else {
    auto& in = reinterpret_cast<sockaddr_in6&>(address.bytes);
    in = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
    address.length = sizeof in;
  }
  return address;
}

Address local_address(int fd) {
  Address address;
  address.length = sizeof address.bytes;
  setup("getsockname", getsockname(fd, address.get(), &address.length));
  return address;
}

int option_value(int fd, int level, int option) {
  int value = -1;
  socklen_t size = sizeof value;
  target::expect_call("getsockopt", getsockopt(fd, level, option, &value, &size));
  return value;
}

void set_option(int fd, int level, int option, int value) {
  setup("setsockopt", setsockopt(fd, level, option, &value, sizeof value));
}

void send_descriptor(int through, int fd) {
  char byte = 'd';
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(header), &fd, sizeof fd);
  setup("sendmsg", sendmsg(through, &message, 0));
}

int receive_descriptor(int through) {
  char byte;
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  target::expect_call("recvmsg", recvmsg(through, &message, MSG_DONTWAIT));
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  int fd = -1;
  if (header) memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return fd;
}

void hold_socket_pairs(Holder& holder) {
  int ends[2];
  setup("socketpair", socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends));
  write_all(ends[0], pattern(5000, 7));
  setup("shutdown", shutdown(ends[0], SHUT_WR));
  holder.hold(200, "unix stream", ends[0], [] {});
  holder.hold(201, "unix stream peer", ends[1], [] {
    expect_read(201, 10000, pattern(5000, 7));
    expect_read(201, 10000, "");  // since the other end was shut down
  });

  setup("socketpair", socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
  for (const char* datagram : {"first", "", "third"}) {
    setup("send", send(ends[0], datagram, strlen(datagram), 0));
  }
  holder.hold(202, "unix datagram", ends[0], [] {});
  holder.hold(203, "unix datagram peer", ends[1], [] {
    for (const char* datagram : {"first", "", "third"}) expect_read(203, 100, datagram);
  });

  setup("socketpair", socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends));
  set_option(ends[1], SOL_SOCKET, SO_PASSCRED, 1);
  holder.hold(204, "unix packets", ends[0], [] { write_all(204, "late"); });
  holder.hold(205, "unix packets peer", ends[1], [] {
    expect_equal("SO_PASSCRED", option_value(205, SOL_SOCKET, SO_PASSCRED), 1);
    expect_read(205, 100, "late");
  });

  // A descriptor that no table holds: it is on its way.
  setup("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
  int pipe_ends[2];
  setup("pipe2", pipe2(pipe_ends, O_CLOEXEC));
  write_all(pipe_ends[1], "in flight");
  send_descriptor(ends[0], pipe_ends[0]);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
  holder.hold(206, "unix with a descriptor in flight", ends[0], [] {});
  holder.hold(207, "unix with a descriptor in flight, peer", ends[1],
              [] { expect_read(receive_descriptor(207), 100, "in flight"); });
}

// Listener, one connection accepted and one waiting in the backlog.
void hold_connection(Holder& holder, int number, const char* kind, int family, Address address) {
  const int listener = setup("socket", socket(family, SOCK_STREAM, 0));
  setup("bind", bind(listener, address.get(), address.length));
  setup("listen", listen(listener, 5));
  Address bound = local_address(listener);
  const auto connect_new = [&] {
    const int client = setup("socket", socket(family, SOCK_STREAM, 0));
    setup("connect", connect(client, bound.get(), bound.length));
    return client;
  };
  const std::string name = kind;
  const int client = connect_new();
  const int accepted = setup("accept", accept(listener, nullptr, nullptr));
  const int waiting = connect_new();
  write_all(client, "unread data");
  if (family != AF_UNIX) set_option(client, IPPROTO_TCP, TCP_NODELAY, 1);

  holder.hold(number, (name + " listener").c_str(), listener, [number] {
    const int late = accept(number, nullptr, nullptr);
    target::expect_call("accept", late);
    expect_read(late, 100, "from the backlog");
  });
  holder.hold(number + 1, (name + " client").c_str(), client, [number, family] {
    expect_read(number + 1, 100, "answer");
    if (family != AF_UNIX) {
      expect_equal("TCP_NODELAY", option_value(number + 1, IPPROTO_TCP, TCP_NODELAY), 1);
    }
  });
  holder.hold(number + 2, (name + " accepted").c_str(), accepted,
              [number] { expect_read(number + 2, 100, "unread data"); });
  holder.hold(number + 3, (name + " in backlog").c_str(), waiting, [] {});
  write_all(number + 2, "answer");
  write_all(number + 3, "from the backlog");
}

void hold_udp(Holder& holder) {
  const int fd = setup("socket", socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
  Address address = loopback(AF_INET);
  setup("bind", bind(fd, address.get(), address.length));
  address = local_address(fd);
  setup("sendto", sendto(fd, "datagram", 8, 0, address.get(), address.length));
  setup("F_SETOWN", fcntl(fd, F_SETOWN, getpid()));
  setup("F_SETSIG", fcntl(fd, F_SETSIG, SIGRTMIN + 3));
  holder.hold(230, "udp", fd, [] {
    expect_read(230, 100, "datagram");
    expect_equal("F_GETOWN", fcntl(230, F_GETOWN), getpid());
    expect_equal("F_GETSIG", fcntl(230, F_GETSIG), SIGRTMIN + 3);
  });
}

void hold_netlink(Holder& holder) {
  const int fd = setup("socket", socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
  sockaddr_nl address{.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
  setup("bind", bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address));
  holder.hold(231, "netlink", fd, [] {});
}

bool has_ipv6() {
  const int fd = socket(AF_INET6, SOCK_STREAM, 0);
  Address address = loopback(AF_INET6);
  const bool usable = fd >= 0 && bind(fd, address.get(), address.length) == 0;
  if (fd >= 0) close(fd);
  return usable;
}

}  // namespace

void hold_sockets(Holder& holder) {
  hold_socket_pairs(holder);
  const std::string abstract = std::string("\0snapgdb-descriptors-", 21) + std::to_string(getpid());
  hold_connection(holder, 210, "unix abstract", AF_UNIX, unix_address(abstract));
  hold_connection(holder, 214, "unix named", AF_UNIX,
                  unix_address(holder.scratch().path("socket")));
  hold_connection(holder, 220, "tcp4", AF_INET, loopback(AF_INET));
  if (has_ipv6()) hold_connection(holder, 224, "tcp6", AF_INET6, loopback(AF_INET6));
  hold_udp(holder);
  hold_netlink(holder);
}

}  // namespace descriptors
