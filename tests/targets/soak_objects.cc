// The kinds of descriptors of soak.cc.

#include <fcntl.h>
#include <netinet/in.h>
#include <pty.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <utility>

#include "soak.h"

namespace soak {

using target::differs;
using target::expect_call;
using target::expect_equal;
using target::setup;

std::string Random::bytes(size_t size) {
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(engine_());
  return text;
}

std::string Surroundings::fresh_name() const {
  return scratch.path(std::to_string(random.below(UINT64_MAX)).c_str());
}

namespace {

void write_to(int fd, const std::string& bytes) {
  if (write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
    target::cannot("write");
}

// All of it, and nothing else.
void expect_next(const char* what, int fd, const std::string& expected) {
  std::string seen(expected.size() + 1, '\0');
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  size_t size = 0;
  for (ssize_t n; size < seen.size() && (n = read(fd, seen.data() + size, seen.size() - size)) > 0;)
    size += static_cast<size_t>(n);
  seen.resize(size);
  if (seen != expected)
    differs("%s: %zu bytes that differ from the %zu there were", what, size, expected.size());
}

void expect_at(const char* what, int fd, const std::string& expected, off_t at) {
  std::string seen(expected.size() + 1, '\0');
  const long n = expect_call(what, pread(fd, seen.data(), seen.size(), at));
  seen.resize(n < 0 ? 0 : static_cast<size_t>(n));
  if (seen != expected) differs("%s has another content", what);
}

// ---- Files --------------------------------------------------------------------------------------

// Each packet is read by itself.
Object make_packets(const Surroundings& around) {
  int ends[2];
  setup("pipe2", pipe2(ends, O_DIRECT | O_NONBLOCK));
  std::vector<std::string> packets(around.random.below(12));
  for (std::string& packet : packets) {
    packet = around.random.bytes(1 + around.random.below(around.random.one_in(3) ? 4096 : 3));
    write_to(ends[1], packet);
  }
  return {{ends[0], ends[1]}, [end = ends[0], packets] {
            std::string seen(4097, '\0');
            for (const std::string& packet : packets) {
              const long n = expect_call("a packet", read(end, seen.data(), seen.size()));
              if (n < 0 || seen.substr(0, static_cast<size_t>(n)) != packet)
                differs("a packet of %zu bytes is another one, of %ld", packet.size(), n);
            }
            expect_next("behind the packets", end, "");
          }};
}

Object make_pipe(const Surroundings& around) {
  int ends[2];
  setup("pipe2", pipe2(ends, around.random.one_in(3) ? O_NONBLOCK : 0));
  const std::string content = around.random.bytes(around.random.below(60'000));
  write_to(ends[1], content);
  return {{ends[0], ends[1]}, [end = ends[0], content] { expect_next("a pipe", end, content); }};
}

Object open_file(const Surroundings& around) {
  Random& random = around.random;
  const std::string name = around.fresh_name();
  const int fd =
      setup("open", open(name.c_str(), O_RDWR | O_CREAT | (random.one_in(3) ? O_APPEND : 0), 0600));
  const std::string content = random.bytes(random.below(20'000));
  write_to(fd, content);
  const auto position = static_cast<off_t>(random.below(1 << 20));
  setup("lseek", lseek(fd, position, SEEK_SET) != position);
  if (random.one_in(3)) setup("unlink", unlink(name.c_str()));
  if (random.one_in(4)) setup("flock", flock(fd, LOCK_EX));
  return {{fd}, [fd, content, position] {
            expect_equal("a file's position", static_cast<uint64_t>(lseek(fd, 0, SEEK_CUR)),
                         static_cast<uint64_t>(position));
            expect_at("a file", fd, content, 0);
          }};
}

Object make_memfd(const Surroundings& around) {
  Random& random = around.random;
  const int fd = setup("memfd_create", memfd_create("soaking", MFD_ALLOW_SEALING));
  const std::string content = random.bytes(random.below(50'000));
  write_to(fd, content);
  const int seals = random.one_in(2) ? F_SEAL_SHRINK | F_SEAL_GROW : 0;
  setup("F_ADD_SEALS", fcntl(fd, F_ADD_SEALS, seals));
  return {{fd}, [fd, content, seals] {
            expect_equal("a memfd's seals", static_cast<uint64_t>(fcntl(fd, F_GET_SEALS)),
                         static_cast<uint64_t>(seals));
            expect_at("a memfd", fd, content, 0);
          }};
}

Object open_directory(const Surroundings& around) {
  static constexpr const char* kPaths[] = {"/", "/usr", "/proc/self/task", "/dev"};
  const int fd = setup("open", open(kPaths[around.random.below(2)], O_RDONLY | O_DIRECTORY));
  return {{fd}, [fd] {
            struct stat status {};
            expect_call("fstat of a directory", fstat(fd, &status));
            if (!S_ISDIR(status.st_mode)) differs("a directory is none");
          }};
}

Object open_device(const Surroundings& around) {
  static constexpr const char* kPaths[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/urandom"};
  struct stat there {};
  const char* path = kPaths[around.random.below(4)];
  const int fd = setup("open", open(path, O_RDWR));
  setup("stat", stat(path, &there));
  return {{fd}, [fd, number = there.st_rdev] {
            struct stat status {};
            expect_call("fstat of a device", fstat(fd, &status));
            expect_equal("a device's number", status.st_rdev, number);
          }};
}

// ---- Events -------------------------------------------------------------------------------------

Object make_eventfd(const Surroundings& around) {
  const uint64_t count = around.random.below(UINT64_MAX - 1) + 1;
  const bool counts_down = around.random.one_in(2);
  const int fd = setup("eventfd", eventfd(0, EFD_NONBLOCK | (counts_down ? EFD_SEMAPHORE : 0)));
  setup("write", write(fd, &count, sizeof count));
  return {{fd}, [fd, count, counts_down] {
            uint64_t seen = 0;
            expect_call("read of an eventfd", read(fd, &seen, sizeof seen));
            expect_equal("an eventfd", seen, counts_down ? 1 : count);
          }};
}

// Watches a pipe of its own that is readable, and others that happen to be there.
Object make_epoll(const Surroundings& around) {
  const int fd = setup("epoll_create1", epoll_create1(0));
  int ends[2];
  setup("pipe", pipe(ends));
  write_to(ends[1], "x");
  epoll_event event{EPOLLIN, {.u64 = around.random.below(UINT64_MAX)}};
  setup("epoll_ctl", epoll_ctl(fd, EPOLL_CTL_ADD, ends[0], &event));
  return {{fd, ends[0], ends[1]}, [fd, event, end = ends[0]] {
            epoll_event seen{};
            expect_equal("what an epoll tells", static_cast<uint64_t>(epoll_wait(fd, &seen, 1, 0)),
                         1);
            expect_equal("the data of an epoll", seen.data.u64, event.data.u64);
            expect_next("what it watches", end, "x");
          }};
}

Object make_timerfd(const Surroundings& around) {
  const int clock = around.random.one_in(2) ? CLOCK_MONOTONIC : CLOCK_REALTIME;
  const int fd = setup("timerfd_create", timerfd_create(clock, TFD_NONBLOCK));
  const auto seconds = static_cast<time_t>(around.random.below(100'000) + 1000);
  const itimerspec time{{seconds, 1}, {seconds, 0}};
  setup("timerfd_settime", timerfd_settime(fd, 0, &time, nullptr));
  return {{fd}, [fd, seconds] {
            itimerspec seen{};
            expect_call("timerfd_gettime", timerfd_gettime(fd, &seen));
            expect_equal("a timer's interval", static_cast<uint64_t>(seen.it_interval.tv_sec),
                         static_cast<uint64_t>(seconds));
            if (seen.it_value.tv_sec > seconds || seen.it_value.tv_sec < seconds - 900)
              differs("a timer has %ld of %ld s left", seen.it_value.tv_sec, seconds);
          }};
}

Object make_signalfd(const Surroundings& around) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, static_cast<int>(SIGRTMIN + around.random.below(20)));
  const int fd = setup("signalfd", signalfd(-1, &set, SFD_NONBLOCK));
  return {{fd}, [fd] {
            signalfd_siginfo info{};
            if (read(fd, &info, sizeof info) > 0) differs("a signalfd tells of a signal");
          }};
}

Object make_inotify(const Surroundings& around) {
  const int fd = setup("inotify_init1", inotify_init1(IN_NONBLOCK));
  const std::string name = around.fresh_name();
  const int file = setup("open", open(name.c_str(), O_RDWR | O_CREAT, 0600));
  const int dropped = setup("inotify_add_watch", inotify_add_watch(fd, "/", IN_MOVE_SELF));
  const int watch = setup("inotify_add_watch", inotify_add_watch(fd, name.c_str(), IN_MODIFY));
  if (around.random.one_in(2)) {
    setup("inotify_rm_watch", inotify_rm_watch(fd, dropped));
    char event[64];
    setup("read", read(fd, event, sizeof event));  // IN_IGNORED
  }
  return {{fd, file}, [fd, file, watch] {
            write_to(file, "x");
            inotify_event event{};
            expect_call("read of an inotify", read(fd, &event, sizeof event));
            expect_equal("the number of a watch", static_cast<uint64_t>(event.wd),
                         static_cast<uint64_t>(watch));
          }};
}

Object make_pidfd(const Surroundings&) {
  const int fd = setup("pidfd_open", syscall(SYS_pidfd_open, getpid(), 0));
  return {{fd},
          [fd] { expect_call("a pidfd", syscall(SYS_pidfd_send_signal, fd, 0, nullptr, 0)); }};
}

// ---- Sockets ------------------------------------------------------------------------------------

// Several messages one way, a few bytes the other.
Object make_pair(const Surroundings& around) {
  Random& random = around.random;
  static constexpr int kTypes[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
  const int type = kTypes[random.below(3)];
  int ends[2];
  setup("socketpair", socketpair(AF_UNIX, type, 0, ends));
  std::vector<std::string> messages;
  for (uint64_t count = random.below(5); count > 0; --count) {
    messages.push_back(random.bytes(random.below(2000) + 1));
    write_to(ends[0], messages.back());
  }
  return {{ends[0], ends[1]}, [end = ends[1], messages] {
            for (const std::string& message : messages) {
              std::string seen(message.size(), '\0');
              const long n = expect_call("recv", recv(end, seen.data(), seen.size(), MSG_DONTWAIT));
              if (n != static_cast<long>(seen.size()) || seen != message)
                differs("a message of %zu bytes is another one, of %ld", message.size(), n);
            }
          }};
}

void send_descriptor(int socket, int fd) {
  char byte = 'f', control[CMSG_SPACE(sizeof fd)] = {};
  iovec data{&byte, 1};
  msghdr message{};
  message.msg_iov = &data, message.msg_iovlen = 1;
  message.msg_control = control, message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(header), &fd, sizeof fd);
  setup("sendmsg", sendmsg(socket, &message, 0));
}

int receive_descriptor(int socket) {
  char byte, control[CMSG_SPACE(sizeof(int))] = {};
  iovec data{&byte, 1};
  msghdr message{};
  message.msg_iov = &data, message.msg_iovlen = 1;
  message.msg_control = control, message.msg_controllen = sizeof control;
  if (recvmsg(socket, &message, MSG_DONTWAIT) != 1 || !CMSG_FIRSTHDR(&message)) return -1;
  int fd = -1;
  memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
  return fd;
}

// A pipe's end that is open nowhere else.
Object send_pipe(const Surroundings& around) {
  int ends[2], pipe_ends[2];
  setup("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
  setup("pipe", pipe(pipe_ends));
  const std::string content = around.random.bytes(around.random.below(5000));
  write_to(pipe_ends[1], content);
  send_descriptor(ends[0], pipe_ends[0]);
  close(pipe_ends[0]);
  return {{ends[0], ends[1], pipe_ends[1]}, [end = ends[1], content] {
            const int fd = receive_descriptor(end);
            if (fd < 0) return differs("a descriptor in flight is lost");
            expect_next("a pipe that was in flight", fd, content);
          }};
}

// The client says nothing before it is accepted: what it had sent by then the kernel shows to
// nobody.
Object listen_unix(const Surroundings& around) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // Another tree of the same seed may be there.
  const std::string name =
      "soak" + std::to_string(around.random.below(UINT64_MAX)) + "-" + std::to_string(getpid());
  memcpy(address.sun_path + 1, name.data(), name.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  const int server = setup("socket", socket(AF_UNIX, SOCK_STREAM, 0));
  setup("bind", bind(server, generic, size));
  setup("listen", listen(server, 5));
  const int client = setup("socket", socket(AF_UNIX, SOCK_STREAM, 0));
  setup("connect", connect(client, generic, size));
  const std::string content = around.random.bytes(1 + around.random.below(5000));
  return {{server, client}, [server, client, content] {
            const long accepted = expect_call("accept", accept4(server, nullptr, nullptr, 0));
            if (accepted < 0) return;
            write_to(client, content);
            expect_next("a connection that waited", static_cast<int>(accepted), content);
          }};
}

sockaddr_in loopback(uint16_t port = 0) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = port;
  return address;
}

int bound(int type, sockaddr_in& address) {
  const int fd = setup("socket", socket(AF_INET, type, 0));
  address = loopback();
  socklen_t size = sizeof address;
  setup("bind", bind(fd, reinterpret_cast<sockaddr*>(&address), size));
  setup("getsockname", getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size));
  return fd;
}

// Both ends here, bytes on their way in both directions.
Object connect_tcp(const Surroundings& around) {
  sockaddr_in address{};
  const int server = bound(SOCK_STREAM, address);
  setup("listen", listen(server, 5));
  const int client = setup("socket", socket(AF_INET, SOCK_STREAM, 0));
  setup("connect", connect(client, reinterpret_cast<sockaddr*>(&address), sizeof address));
  const int accepted = setup("accept", accept(server, nullptr, nullptr));
  const std::string there = around.random.bytes(around.random.below(20'000)),
                    back = around.random.bytes(around.random.below(20'000));
  if (!there.empty()) write_to(client, there);
  if (!back.empty()) write_to(accepted, back);
  return {{server, client, accepted}, [=] {
            const auto expect = [](int fd, const std::string& content) {
              std::string seen(content.size(), '\0');
              if (recv(fd, seen.data(), seen.size(), MSG_WAITALL) !=
                      static_cast<ssize_t>(seen.size()) ||
                  seen != content)
                differs("a connection has another content");
            };
            expect(accepted, there);
            expect(client, back);
            write_to(client, "on");
            expect(accepted, "on");
          }};
}

Object bind_udp(const Surroundings& around) {
  sockaddr_in address{}, from{};
  const int receiver = bound(SOCK_DGRAM, address), sender = bound(SOCK_DGRAM, from);
  const std::string message = around.random.bytes(around.random.below(1000) + 1);
  setup("sendto", sendto(sender, message.data(), message.size(), 0,
                         reinterpret_cast<sockaddr*>(&address), sizeof address));
  return {{receiver, sender}, [=] {
            std::string seen(message.size() + 1, '\0');
            sockaddr_in seen_from{};
            socklen_t size = sizeof seen_from;
            const long n =
                expect_call("recvfrom", recvfrom(receiver, seen.data(), seen.size(), MSG_DONTWAIT,
                                                 reinterpret_cast<sockaddr*>(&seen_from), &size));
            seen.resize(n < 0 ? 0 : static_cast<size_t>(n));
            if (seen != message) differs("a datagram has another content");
            expect_equal("a sender's port", seen_from.sin_port, from.sin_port);
          }};
}

// ---- Terminals ----------------------------------------------------------------------------------

Object open_terminal(const Surroundings& around) {
  int master = -1, slave = -1;
  const winsize size{static_cast<uint16_t>(around.random.below(200)),
                     static_cast<uint16_t>(around.random.below(200)), 0, 0};
  termios settings{};
  setup("openpty", openpty(&master, &slave, nullptr, nullptr, &size));
  setup("tcgetattr", tcgetattr(slave, &settings));
  if (around.random.one_in(2)) cfmakeraw(&settings);
  setup("tcsetattr", tcsetattr(slave, TCSANOW, &settings));
  return {{master, slave}, [=] {
            winsize seen{};
            expect_call("TIOCGWINSZ", ioctl(slave, TIOCGWINSZ, &seen));
            expect_equal("a terminal's rows", seen.ws_row, size.ws_row);
            termios now{};
            expect_call("tcgetattr", tcgetattr(slave, &now));
            expect_equal("a terminal's settings", now.c_lflag, settings.c_lflag);
            write_to(slave, "x");
            expect_next("a terminal", master, "x");
          }};
}

}  // namespace

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> kAll{
      {"pipe", make_pipe},         {"file", open_file},
      {"memfd", make_memfd},       {"directory", open_directory},
      {"device", open_device},     {"eventfd", make_eventfd},
      {"epoll", make_epoll},       {"timerfd", make_timerfd},
      {"signalfd", make_signalfd}, {"inotify", make_inotify},
      {"pidfd", make_pidfd},       {"pair", make_pair},
      {"in-flight", send_pipe},    {"unix", listen_unix},
      {"tcp", connect_tcp},        {"udp", bind_udp},
      {"terminal", open_terminal}, {"packets", make_packets},
  };
  return kAll;
}

// ---- Memory -------------------------------------------------------------------------------------

std::function<void()> map_memory(Random& random) {
  struct Range {
    uint64_t* words;
    size_t pages;
    uint64_t seed;
    int every;  // so many pages have nothing, up to the next that is filled
  };
  constexpr size_t kPage = 4096, kWords = kPage / 8;
  auto ranges = std::make_shared<std::vector<Range>>();
  for (uint64_t count = random.below(5); count > 0; --count) {
    const size_t pages = random.below(300) + 1;
    const int kind = random.one_in(3) ? MAP_SHARED : MAP_PRIVATE;
    void* memory =
        mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) target::cannot("mmap");
    const Range range{static_cast<uint64_t*>(memory), pages, random.below(UINT64_MAX),
                      static_cast<int>(random.below(7)) + 1};
    for (size_t page = 0; page < pages; page += static_cast<size_t>(range.every))
      for (size_t i = 0; i < kWords; ++i)
        range.words[page * kWords + i] = target::mix(range.seed + page * kWords + i);
    if (random.one_in(3)) setup("mprotect", mprotect(memory, kPage, PROT_READ));
    if (random.one_in(4)) setup("madvise", madvise(memory, kPage * pages, MADV_DONTFORK));
    ranges->push_back(range);
  }
  return [ranges] {
    for (const Range& range : *ranges)
      for (size_t i = 0; i < range.pages * kWords; ++i) {
        const bool is_filled = i / kWords % static_cast<size_t>(range.every) == 0;
        if (range.words[i] == (is_filled ? target::mix(range.seed + i) : 0)) continue;
        differs("memory at %p holds another value", static_cast<void*>(range.words + i));
        break;
      }
  };
}

}  // namespace soak
