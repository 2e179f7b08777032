#include "gdbstub/serve.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "gdbstub/neighbour.h"

namespace snapgdb::gdbstub {
namespace {

// Small, so that what the replies to one piece can take up stays small too.
constexpr size_t kPiece = 4096;

// nullopt: the client is gone.
std::optional<std::string> receive(Neighbour& client, int fd) {
  std::string bytes(kPiece, '\0');
  ssize_t n;
  do n = client.read(fd, bytes);
  while (n < 0 && errno == EINTR);
  if (n < 0 && errno != ECONNRESET) throw_errno("cannot read from the debugger");
  if (n <= 0) return std::nullopt;
  bytes.resize(static_cast<size_t>(n));
  return bytes;
}

// False: the client is gone.
bool transmit(int fd, std::string_view bytes) {
  try {
    write_all(fd, std::as_bytes(std::span(bytes)), "to the debugger");
    return true;
  } catch (const SystemError& error) {
    if (error.error_number() == EPIPE || error.error_number() == ECONNRESET) return false;
    throw;
  }
}

struct Ready {
  bool client = false, event = false;
};

Ready wait_for(int client, int event) {  // -1: is never ready
  std::array<pollfd, 2> both = {pollfd{client, POLLIN, 0}, pollfd{event, POLLIN, 0}};
  while (poll(both.data(), both.size(), -1) < 0)
    if (errno != EINTR) throw_errno("cannot wait for the debugger");
  return {both[0].revents != 0, both[1].revents != 0};
}

// Taken from the host part: "[::1]" is an IPv6 address.
std::string without_brackets(std::string_view host) {
  const bool bracketed = host.starts_with('[') && host.ends_with(']');
  return std::string(bracketed ? host.substr(1, host.size() - 2) : host);
}

uint16_t bound_port(int socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    throw_errno("cannot learn the port");
  sockaddr_in in;  // the port stands in the same place for IPv4 and IPv6
  std::memcpy(&in, &address, sizeof in);
  return ntohs(in.sin_port);
}

Fd bind_tcp(const addrinfo& where, std::string_view name) {
  Fd made(socket(where.ai_family, where.ai_socktype | SOCK_CLOEXEC, where.ai_protocol));
  if (!made.valid()) throw_errno("cannot make a socket");
  const int on = 1;
  setsockopt(made.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(made.get(), where.ai_addr, where.ai_addrlen) != 0 || listen(made.get(), 1) != 0)
    throw_errno("cannot listen on tcp:{}", name);
  return made;
}

// What a client whose machine is gone for good never says: without, the next one would wait for
// ever. A unix socket knows no such options.
void set_up(const Fd& client) {
  struct Option {
    int level, name, value;
  };
  static constexpr Option kOptions[] = {
      {IPPROTO_TCP, TCP_NODELAY, 1},  // whoever asks waits for the answer
      {SOL_SOCKET, SO_KEEPALIVE, 1},    {IPPROTO_TCP, TCP_KEEPIDLE, 60},  // seconds
      {IPPROTO_TCP, TCP_KEEPINTVL, 15}, {IPPROTO_TCP, TCP_KEEPCNT, 4},
  };
  for (const auto& [level, name, value] : kOptions)
    setsockopt(client.get(), level, name, &value, sizeof value);
}

// A socket left behind by a listener that was killed: nobody answers there.
void remove_stale(const std::string& path, const sockaddr_un& where) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0 || !S_ISSOCK(status.st_mode)) return;
  const Fd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto* address = reinterpret_cast<const sockaddr*>(&where);
  if (connect(probe.get(), address, sizeof where) != 0 && errno == ECONNREFUSED)
    unlink(path.c_str());
}

// What a signal must not leave behind.
char path_to_remove[sizeof(sockaddr_un::sun_path)];

void remove_and_die(int signal_number) {
  unlink(path_to_remove);
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

void remove_when_killed(const std::string& path) {
  path.copy(path_to_remove, sizeof path_to_remove - 1);
  for (const int number : {SIGINT, SIGTERM, SIGHUP})
    if (signal(number, remove_and_die) == SIG_IGN) signal(number, SIG_IGN);  // as nohup(1) has it
}

// gdb shows why its stub has ended only if it could write its first packet before, to a stub that
// has read it. It writes at once, to a socket: an acknowledgement, and then the packet.
void hear_out_gdb() {
  constexpr int kPatienceMs = 2000;
  struct stat status {};
  if (fstat(STDIN_FILENO, &status) != 0 || !S_ISSOCK(status.st_mode)) return;  // not gdb
  pollfd wanted{STDIN_FILENO, POLLIN, 0};
  std::array<char, kPiece> dropped;
  for (ssize_t n = 1; n > 0 && poll(&wanted, 1, kPatienceMs) > 0;) {
    n = read(STDIN_FILENO, dropped.data(), dropped.size());
    if (n > 0 && std::count(dropped.data(), dropped.data() + n, '#') > 0) return;
  }
}

// For every byte of a reply, gdb makes a system call to see whether its stub has something to say
// on standard error, until that has an end (ser_base_read_error_fd() in its ser-base.c). So it gets
// one, where nothing is said aside: of the socket, since a shell between gdb and us may hold it too
// (dash(1) waits for what it was told to run). What goes wrong later is told as text for gdb's
// console, as far as we live to tell it. False: it is none of gdb's making.
bool end_standard_error() {
  struct stat aside {
  }, replies{};
  const bool is_known = fstat(STDERR_FILENO, &aside) == 0 && fstat(STDOUT_FILENO, &replies) == 0;
  const bool is_one = aside.st_dev == replies.st_dev && aside.st_ino == replies.st_ino;  // 2>&1
  const bool is_gdbs = is_known && S_ISSOCK(aside.st_mode) && !is_one;
  const Fd nothing(is_gdbs ? open("/dev/null", O_WRONLY | O_CLOEXEC) : -1);
  return nothing.valid() && shutdown(STDERR_FILENO, SHUT_WR) == 0 &&
         dup2(nothing.get(), STDERR_FILENO) == STDERR_FILENO;
}

}  // namespace

void serve(Session& session, int in_fd, int out_fd) {
  signal(SIGPIPE, SIG_IGN);  // a client that goes away is no reason to die by a signal
  Neighbour client(in_fd);
  bool may_speak_aside = true;
  while (!session.finished()) {
    const int event = session.event_descriptor();
    const Ready ready = event < 0 ? Ready{.client = true} : wait_for(in_fd, event);
    if (ready.event && !transmit(out_fd, session.on_event())) return;
    if (ready.client) {
      const auto bytes = receive(client, in_fd);
      if (!bytes || !transmit(out_fd, session.feed(*bytes))) return;
    }
    transmit(STDERR_FILENO, session.take_aside());
    if (may_speak_aside && in_fd == STDIN_FILENO && session.has_no_aside()) {
      may_speak_aside = false;
      if (end_standard_error()) session.pipe_is_fast();
    }
  }
}

int serve_stdio(const std::function<OpenedSnapshot()>& open, SessionOptions options) try {
  auto [image, snapshot] = open();
  options.image = std::move(image);
  options.piped = true;
  Session session(std::move(snapshot), options);
  const std::string greeting = session.greeting();
  transmit(STDERR_FILENO, greeting);
  try {
    serve(session, STDIN_FILENO, STDOUT_FILENO);
  } catch (const Error& error) {
    const std::string text = fmt::format("snapgdb: {}\n", error.what());
    if (session.has_no_aside()) transmit(STDOUT_FILENO, frame("O" + to_hex(text)));
    throw;
  }
  return static_cast<int>(ExitStatus::kDone);
} catch (const Error&) {
  hear_out_gdb();
  throw;
}

Listener::Listener(std::string_view address) {
  constexpr std::string_view kUnix = "unix:", kTcp = "tcp:";
  if (address.starts_with(kUnix))
    listen_unix(std::string(address.substr(kUnix.size())));
  else if (address.starts_with(kTcp))
    listen_tcp(address.substr(kTcp.size()));
  else
    throw Error(fmt::format("cannot listen on {}", address), "it is no address",
                "write unix:PATH or tcp:HOST:PORT", ExitStatus::kUsage);
}

Listener::~Listener() {
  if (path_.empty()) return;
  unlink(path_.c_str());
  disown();
}

void Listener::disown() {
  path_.clear();
  path_to_remove[0] = '\0';
}

void Listener::listen_unix(const std::string& path) {
  sockaddr_un where{};
  where.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof where.sun_path)
    throw Error(fmt::format("cannot listen on unix:{}", path), "the path has no fitting length", "",
                ExitStatus::kUsage);
  std::memcpy(where.sun_path, path.data(), path.size());
  remove_stale(path, where);
  socket_ = Fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket_.valid()) throw_errno("cannot make a socket");
  const mode_t old_mask = umask(0077);  // for nobody else: an image is 0600 too
  const int bound = bind(socket_.get(), reinterpret_cast<sockaddr*>(&where), sizeof where);
  umask(old_mask);
  if (bound != 0) throw_errno("cannot listen on unix:{}", path);
  path_ = path;
  remove_when_killed(path);
  if (listen(socket_.get(), 1) != 0) throw_errno("cannot listen on unix:{}", path);
  address_ = "unix:" + path;
}

void Listener::listen_tcp(std::string_view host_and_port) {
  const size_t colon = host_and_port.rfind(':');
  const std::string_view host = host_and_port.substr(0, colon);
  if (colon == std::string_view::npos || host.empty())
    throw Error(
        fmt::format("cannot listen on tcp:{}", host_and_port), "the host or port is missing",
        "write tcp:127.0.0.1:PORT to be reached from this machine only", ExitStatus::kUsage);
  const auto port = parse_number<uint16_t>(host_and_port.substr(colon + 1));
  if (!port)  // getaddrinfo(3) would take the lower bits of a larger one
    throw Error(fmt::format("cannot listen on tcp:{}", host_and_port),
                "the port is no number from 0 to 65535", "0 takes a free one", ExitStatus::kUsage);
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  if (const int failed = getaddrinfo(without_brackets(host).c_str(), std::to_string(*port).c_str(),
                                     &hints, &found))
    throw Error(fmt::format("cannot listen on tcp:{}", host_and_port), gai_strerror(failed));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
  socket_ = bind_tcp(*found, host_and_port);
  address_ = fmt::format("tcp:{}:{}", host, bound_port(socket_.get()));
}

Fd Listener::accept() const {
  while (true) {
    Fd client(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (client.valid()) {
      set_up(client);
      return client;
    }
    if (errno != EINTR && errno != ECONNABORTED) throw_errno("cannot accept a debugger");
  }
}

void serve_next(std::shared_ptr<const Snapshot> snapshot, const SessionOptions& options,
                const Listener& listener) {
  const Fd client = listener.accept();
  try {
    Session session(std::move(snapshot), options);
    serve(session, client.get(), client.get());
  } catch (const Error& error) {  // what one client has met is not the next one's
    transmit(STDERR_FILENO, fmt::format("snapgdb: {}\n", error.what()));
  }
}

void serve_listener(std::shared_ptr<const Snapshot> snapshot, const SessionOptions& options,
                    const Listener& listener) {
  while (true) serve_next(snapshot, options, listener);
}

}  // namespace snapgdb::gdbstub
