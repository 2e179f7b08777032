// Waiting for the other end of a socket.

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "blocking_family.h"

namespace target {
namespace {

using enum AfterStop;

int listener, datagrams, silent_socket, full_listener, connecting;
sockaddr_in listening_at;

long wait_in_recv(uint64_t ns) {
  const timeval limit = as_timeval(ns);
  setup("SO_RCVTIMEO", setsockopt(silent_socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
  char byte;
  return recv(silent_socket, &byte, 1, 0);
}

const BlockingCall kTimed[] = {
    {"recv with limit", SYS_recvfrom, kFails, {-1, EAGAIN}, wait_in_recv},
};

long receive_datagram(uint64_t) {
  char bytes[16];
  sockaddr_in from;
  socklen_t size = sizeof from;
  return recvfrom(datagrams, bytes, sizeof bytes, 0, reinterpret_cast<sockaddr*>(&from), &size);
}

long accept_and_close(uint64_t) {
  const int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  return fd < 0 ? -1 : close(fd);
}

sockaddr_un address_of(int socket, socklen_t& size) {
  sockaddr_un address{};
  size = sizeof address;
  getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
  return address;
}

long connect_to_full_listener(uint64_t) {
  socklen_t size;
  const sockaddr_un address = address_of(full_listener, size);
  return connect(connecting, reinterpret_cast<const sockaddr*>(&address), size);
}

void connect_to_listener(int type, const char* data) {
  const int fd = setup("socket", socket(AF_INET, type | SOCK_CLOEXEC, 0));
  setup("connect", connect(fd, reinterpret_cast<sockaddr*>(&listening_at), sizeof listening_at));
  if (data) setup("write", write(fd, data, strlen(data)));
  close(fd);
}

const BlockingCall kEndless[] = {
    {"accept",
     SYS_accept4,
     kGoesOn,
     {},
     accept_and_close,
     [](const Thread&) { connect_to_listener(SOCK_STREAM, nullptr); }},
    {"connect",
     SYS_connect,
     kGoesOn,
     {},
     connect_to_full_listener,
     [](const Thread&) { close(accept(full_listener, nullptr, nullptr)); }},
    {"recvfrom",
     SYS_recvfrom,
     kGoesOn,
     {8},
     receive_datagram,
     [](const Thread&) { connect_to_listener(SOCK_DGRAM, "datagram"); }},
};

// A backlog of 0 takes one connection, which is made here; the next has to wait.
void prepare_full_listener() {
  const sockaddr_un any{.sun_family = AF_UNIX};  // autobind: a name of the kernel's choice
  full_listener = setup("socket", socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  setup("bind", bind(full_listener, reinterpret_cast<const sockaddr*>(&any), sizeof(sa_family_t)));
  setup("listen", listen(full_listener, 0));
  connecting = setup("socket", socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  setup("connect", static_cast<int>(connect_to_full_listener(0)));
  connecting = setup("socket", socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

void prepare() {
  listener = setup("socket", socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  listening_at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof listening_at;
  const auto address = reinterpret_cast<sockaddr*>(&listening_at);
  setup("bind", bind(listener, address, size));
  setup("listen", listen(listener, 1));
  getsockname(listener, address, &size);
  datagrams = setup("socket", socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  setup("bind", bind(datagrams, address, size));
  silent_socket = setup("socket", socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  prepare_full_listener();
}

}  // namespace

const BlockingFamily kSocketCalls{kTimed, kEndless, prepare};

}  // namespace target
