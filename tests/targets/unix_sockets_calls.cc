#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/un.h>
#include <unistd.h>

#include "unix_sockets.h"

namespace unix_sockets {

using target::differs;
using target::expect_equal;
using target::setup;

std::string pattern(size_t size, uint64_t seed) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<char>(target::mix(seed + i / 8) >> i % 8 * 8);
  return bytes;
}

std::pair<int, int> make_pair(int type) {
  int ends[2];
  setup("socketpair", socketpair(AF_UNIX, type, 0, ends));
  return {ends[0], ends[1]};
}

void set_option(int fd, int name, int value) {
  setup("setsockopt", setsockopt(fd, SOL_SOCKET, name, &value, sizeof value));
}

int get_option(int fd, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  target::expect_call("getsockopt", getsockopt(fd, SOL_SOCKET, name, &value, &size));
  return value;
}

size_t queued(int fd) {
  int bytes = 0;
  target::expect_call("FIONREAD", ioctl(fd, FIONREAD, &bytes));
  return bytes;
}

int has_input(int fd) {
  pollfd poll{fd, POLLIN, 0};
  return ::poll(&poll, 1, 0);
}

// ---- Names --------------------------------------------------------------------------------------

namespace {

struct Address {
  sockaddr_un un{.sun_family = AF_UNIX, .sun_path = {}};
  socklen_t size;

  explicit Address(const std::string& name)
      : size(offsetof(sockaddr_un, sun_path) + name.size() + is_path(name)) {
    memcpy(un.sun_path, name.data(), name.size());
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&un); }
};

std::string name_in(const sockaddr_un& un, socklen_t size) {
  if (size <= offsetof(sockaddr_un, sun_path)) return "";
  const size_t length = size - offsetof(sockaddr_un, sun_path);
  return un.sun_path[0] ? std::string(un.sun_path, strnlen(un.sun_path, length))
                        : std::string(un.sun_path, length);
}

std::string readable(std::string name) {
  if (!name.empty() && name[0] == '\0') name[0] = '@';
  return name;
}

}  // namespace

bool is_path(const std::string& name) {
  return !name.empty() && name[0] != '\0';
}

void bind_to(int fd, const std::string& name) {
  const Address address(name);
  setup("bind", bind(fd, address.get(), address.size));
}

void connect_to(int fd, const std::string& name) {
  const Address address(name);
  setup("connect", connect(fd, address.get(), address.size));
}

std::string name_of(int fd) {
  sockaddr_un un{};
  socklen_t size = sizeof un;
  setup("getsockname", getsockname(fd, reinterpret_cast<sockaddr*>(&un), &size));
  return name_in(un, size);
}

std::string peer_name_of(int fd) {
  sockaddr_un un{};
  socklen_t size = sizeof un;
  setup("getpeername", getpeername(fd, reinterpret_cast<sockaddr*>(&un), &size));
  return name_in(un, size);
}

struct ucred peer_of(int fd) {
  struct ucred credentials {};
  socklen_t size = sizeof credentials;
  setup("SO_PEERCRED", getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size));
  return credentials;
}

// ---- Messages -----------------------------------------------------------------------------------

namespace {

struct Message {
  std::string content;
  iovec data{};
  alignas(cmsghdr) char control[512] = {};
  sockaddr_un sender{};
  msghdr header{};

  explicit Message(std::string bytes) : content(std::move(bytes)) {
    data = {content.data(), content.size()};
    header.msg_iov = &data, header.msg_iovlen = 1;
    header.msg_control = control;
  }
  void add(int type, const void* companion, size_t size) {
    header.msg_controllen = CMSG_SPACE(size);
    cmsghdr* first = CMSG_FIRSTHDR(&header);
    first->cmsg_level = SOL_SOCKET, first->cmsg_type = type, first->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(first), companion, size);
  }
  ssize_t receive(int fd) {
    header.msg_controllen = sizeof control;
    header.msg_name = &sender, header.msg_namelen = sizeof sender;
    const ssize_t size = recvmsg(fd, &header, MSG_DONTWAIT);
    content.resize(size < 0 ? 0 : size);
    return size;
  }
  const cmsghdr* companion(int type) {
    for (cmsghdr* one = CMSG_FIRSTHDR(&header); one; one = CMSG_NXTHDR(&header, one))
      if (one->cmsg_level == SOL_SOCKET && one->cmsg_type == type) return one;
    return nullptr;
  }
};

}  // namespace

void send_all(int fd, const std::string& bytes) {
  expect_equal("bytes sent", setup("send", send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL)),
               bytes.size());
}

void send_to(int fd, const std::string& name, const std::string& bytes) {
  const Address address(name);
  setup("sendto", sendto(fd, bytes.data(), bytes.size(), 0, address.get(), address.size));
}

void send_files(int fd, const std::string& bytes, const std::vector<int>& files) {
  Message message(bytes);
  message.add(SCM_RIGHTS, files.data(), files.size() * sizeof(int));
  setup("sendmsg", sendmsg(fd, &message.header, 0));
}

void send_as(int fd, const std::string& bytes, struct ucred credentials) {
  Message message(bytes);
  message.add(SCM_CREDENTIALS, &credentials, sizeof credentials);
  setup("sendmsg", sendmsg(fd, &message.header, 0));
}

void expect_received(const char* what, int fd, const std::string& expected, size_t at_most) {
  const bool stream = get_option(fd, SO_TYPE) == SOCK_STREAM;
  std::string seen;
  do {
    std::string piece((at_most ? at_most : expected.size() + 1) - seen.size(), '\0');
    const ssize_t size = recv(fd, piece.data(), piece.size(), MSG_DONTWAIT);
    if (size < 0) return differs("%s: %s after %zu bytes", what, strerror(errno), seen.size());
    seen.append(piece, 0, size);
    if (size == 0) break;
  } while (stream && seen.size() < expected.size());
  if (seen != expected)
    differs("%s: %zu bytes (%.20s) instead of %zu (%.20s)", what, seen.size(), seen.c_str(),
            expected.size(), expected.c_str());
}

void expect_datagram(const char* what, int fd, const std::string& expected,
                     const std::string& sender) {
  Message message(std::string(expected.size() + 1, '\0'));
  message.receive(fd);
  if (message.content != expected)
    differs("%s: '%s' instead of '%s'", what, message.content.c_str(), expected.c_str());
  expect_name(what, name_in(message.sender, message.header.msg_namelen), sender);
}

void expect_empty(const char* what, int fd) {
  char byte;
  const ssize_t size = recv(fd, &byte, 1, MSG_DONTWAIT);
  if (size >= 0)
    differs("%s: there is more in it", what);
  else
    expect_equal(what, errno, EAGAIN);
}

void expect_end(const char* what, int fd) {
  char byte;
  expect_equal(what, recv(fd, &byte, 1, MSG_DONTWAIT), 0);
}

void expect_name(const char* what, const std::string& seen, const std::string& expected) {
  if (seen != expected)
    differs("%s: its name is '%s' instead of '%s'", what, readable(seen).c_str(),
            readable(expected).c_str());
}

void expect_credentials(int fd, const std::string& expected, struct ucred credentials) {
  Message message(std::string(expected.size(), '\0'));
  message.receive(fd);
  if (message.content != expected)
    differs("'%s' instead of '%s'", message.content.c_str(), expected.c_str());
  const cmsghdr* companion = message.companion(SCM_CREDENTIALS);
  if (!companion) return differs("'%s' came without credentials", expected.c_str());
  struct ucred seen {};
  memcpy(&seen, CMSG_DATA(companion), sizeof seen);
  expect_equal("sender's pid", seen.pid, credentials.pid);
  expect_equal("sender's user", seen.uid, credentials.uid);
  expect_equal("sender's group", seen.gid, credentials.gid);
}

std::vector<int> receive_files(const char* what, int fd, const std::string& expected,
                               size_t count) {
  Message message(std::string(expected.size() + 1, '\0'));
  if (message.receive(fd) < 0) differs("%s: %s", what, strerror(errno));
  if (message.content != expected)
    differs("%s: '%s' instead of '%s'", what, message.content.c_str(), expected.c_str());
  std::vector<int> files(count, -1);
  const cmsghdr* companion = message.companion(SCM_RIGHTS);
  const size_t seen = companion ? (companion->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
  expect_equal(what, seen, count);
  if (companion) memcpy(files.data(), CMSG_DATA(companion), std::min(seen, count) * sizeof(int));
  return files;
}

}  // namespace unix_sockets
