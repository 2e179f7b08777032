#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "inet_sockets.h"

namespace target::inet {

// Of this host.
Address loopback(int domain, uint16_t port) {
  Address address{};
  address.any.sa_family = static_cast<sa_family_t>(domain);
  if (domain == AF_INET) {
    address.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.in.sin_port = htons(port);
  } else {
    address.in6.sin6_addr = in6addr_loopback;
    address.in6.sin6_port = htons(port);
  }
  return address;
}

Address name_of(int socket) {
  Address address{};
  socklen_t size = sizeof address;
  expect_call("getsockname", getsockname(socket, &address.any, &size));
  return address;
}

int make_socket(int domain, int type) {
  return static_cast<int>(setup("socket", socket(domain, type | SOCK_CLOEXEC, 0)));
}

void bind_to(int socket, const Address& address) {
  setup("bind", bind(socket, &address.any, sizeof address));
}

int option(int socket, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  expect_call("getsockopt", getsockopt(socket, level, name, &value, &size));
  return value;
}

void set_option(int socket, int level, int name, int value) {
  setup("setsockopt", setsockopt(socket, level, name, &value, sizeof value));
}

int state_of(int socket) {
  tcp_info info{};
  socklen_t size = sizeof info;
  expect_call("TCP_INFO", getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size));
  return info.tcpi_state;
}

std::string pattern(size_t size, uint64_t seed) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(mix(seed + i / 8) >> i % 8 * 8);
  return bytes;
}

void send_all(int socket, const std::string& bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = send(socket, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
    if (n <= 0) return differs("cannot send: %m");
    done += static_cast<size_t>(n);
  }
}

void expect_bytes(const char* what, int socket, const std::string& expected) {
  std::string seen(expected.size(), '\0');
  size_t done = 0;
  pollfd readable{socket, POLLIN, 0};
  while (done < seen.size() && poll(&readable, 1, 20'000) == 1) {
    const ssize_t n = recv(socket, seen.data() + done, seen.size() - done, MSG_DONTWAIT);
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  if (done != seen.size() || seen != expected)
    differs("%s: %zu bytes instead of %zu, or others", what, done, expected.size());
}

void expect_end(const char* what, int socket) {
  pollfd readable{socket, POLLIN, 0};
  char byte = 0;
  if (poll(&readable, 1, 20'000) != 1 || recv(socket, &byte, 1, MSG_DONTWAIT) != 0)
    differs("%s: not at its end", what);
}

Pair connect_pair(int domain, const Address& address) {
  Pair pair{};
  pair.listening = setup("socket", socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0));
  bind_to(pair.listening, address);
  setup("listen", listen(pair.listening, 7));
  const Address name = name_of(pair.listening);
  pair.client = setup("socket", socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0));
  setup("connect", connect(pair.client, &name.any, sizeof name));
  pair.server = setup("accept", accept(pair.listening, nullptr, nullptr));
  return pair;
}

Pair connect_pair() {
  return connect_pair(AF_INET, loopback(AF_INET));
}

void expect_alive(const char* what, const Pair& pair) {
  const std::string bytes = pattern(50'000, 77);
  send_all(pair.client, bytes);
  expect_bytes(what, pair.server, bytes);
  send_all(pair.server, bytes);
  expect_bytes(what, pair.client, bytes);
  const Address name = name_of(pair.listening);
  const int other =
      static_cast<int>(expect_call("socket", socket(name.any.sa_family, SOCK_STREAM, 0)));
  expect_call(what, connect(other, &name.any, sizeof name));
  const int accepted =
      static_cast<int>(expect_call(what, accept(pair.listening, nullptr, nullptr)));
  close(other), close(accepted);
  if (accepted < 0) differs("%s: nobody can connect", what);
}

}  // namespace target::inet
