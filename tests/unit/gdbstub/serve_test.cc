#include "gdbstub/serve.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <thread>

#include "conversation.h"
#include "core/base/error.h"

namespace snapgdb::gdbstub {
namespace {

std::shared_ptr<const Snapshot> snapshot() {
  SnapshotBuilder builder;
  builder.process(16).thread(16);
  return builder.build();
}

// A served session; ours() is the client's end.
class Served {
 public:
  Served() : session_(snapshot()) {
    std::array<int, 2> ends;
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) == 0);
    ours_.reset(ends[0]);
    theirs_.reset(ends[1]);
    thread_ = std::thread([this] {
      serve(session_, theirs_.get(), theirs_.get());
      theirs_.reset();
    });
  }
  ~Served() {
    ours_.reset();
    thread_.join();
  }
  Fd& ours() { return ours_; }
  std::string receive(size_t size) {
    std::string bytes(size, '\0');
    bytes.resize(read_upto(ours_.get(), std::as_writable_bytes(std::span(bytes)), "test"));
    return bytes;
  }

 private:
  Session session_;
  Fd ours_, theirs_;
  std::thread thread_;
};

void send_text(const Fd& fd, std::string_view text) {
  write_all(fd.get(), std::as_bytes(std::span(text)), "test");
}

struct TemporaryDirectory {
  TemporaryDirectory() {
    char name[] = "/tmp/snapgdb-test-XXXXXX";
    path = mkdtemp(name);
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path); }
  std::string path;
};

Fd connected_to(const Listener& listener) {
  const std::string port = listener.address().substr(listener.address().rfind(':') + 1);
  Fd client(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_port = htons(parse_number<uint16_t>(port).value_or(0));
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(connect(client.get(), reinterpret_cast<sockaddr*>(&where), sizeof where) == 0);
  return client;
}

}  // namespace

TEST_CASE("a client is answered, and serving ends when it closes the connection") {
  Served served;
  send_text(served.ours(), "$qC#b4");
  CHECK(served.receive(9) == "+$QC10#f5");
  shutdown(served.ours().get(), SHUT_WR);
  CHECK(served.receive(1).empty());
}

TEST_CASE("serving ends at once when the client kills") {
  Served served;
  send_text(served.ours(), "$k#6b");
  CHECK(served.receive(2) == "+");
}

TEST_CASE("a client that vanishes without reading is survived") {
  Served served;
  send_text(served.ours(), "$qC#b4$qC#b4$qC#b4");
}

TEST_CASE("a unix socket is for its owner only and does not outlive the listener") {
  const TemporaryDirectory directory;
  const std::string path = directory.path + "/stub";
  {
    const Listener listener("unix:" + path);
    CHECK(listener.address() == "unix:" + path);
    struct stat status {};
    REQUIRE(stat(path.c_str(), &status) == 0);
    CHECK((status.st_mode & 0777) == 0700);
    CHECK_THROWS_WITH(Listener("unix:" + path), Catch::Contains("in use"));
    CHECK(std::filesystem::exists(path));
  }
  CHECK_FALSE(std::filesystem::exists(path));
}

TEST_CASE("a socket that nobody listens on any more is replaced, another file never") {
  const TemporaryDirectory directory;
  const std::string path = directory.path + "/stub";
  {
    const Fd left_behind(socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un where{};
    where.sun_family = AF_UNIX;
    std::memcpy(where.sun_path, path.data(), path.size());
    REQUIRE(bind(left_behind.get(), reinterpret_cast<sockaddr*>(&where), sizeof where) == 0);
  }
  CHECK(Listener("unix:" + path).address() == "unix:" + path);
  { const Fd file(creat(path.c_str(), 0600)); }
  CHECK_THROWS_AS(Listener("unix:" + path), Error);
  CHECK(std::filesystem::is_regular_file(path));
}

TEST_CASE("tcp listens on the address asked for, and tells the port that was chosen") {
  const Listener listener("tcp:127.0.0.1:0");
  const std::string port = listener.address().substr(listener.address().rfind(':') + 1);
  CHECK(parse_number<uint16_t>(port).value_or(0) > 0);
  const Fd client = connected_to(listener);
  CHECK(listener.accept().valid());
}

TEST_CASE("a client whose machine is gone is noticed") {
  const Listener listener("tcp:127.0.0.1:0");
  const Fd client = connected_to(listener), accepted = listener.accept();
  int on = 0, idle = 0;
  socklen_t size = sizeof on;
  REQUIRE(getsockopt(accepted.get(), SOL_SOCKET, SO_KEEPALIVE, &on, &size) == 0);
  REQUIRE(getsockopt(accepted.get(), IPPROTO_TCP, TCP_KEEPIDLE, &idle, &size) == 0);
  CHECK(on != 0);
  CHECK(idle <= 60);
}

TEST_CASE("what is wrong with one client does not end the listener") {
  const Listener listener("tcp:127.0.0.1:0");
  const Fd client = connected_to(listener);
  CHECK_NOTHROW(serve_next(snapshot(), {.pid = 99}, listener));
}

TEST_CASE("an address without a host or port is not taken for another one") {
  for (const char* address : {"tcp::1234", "tcp:1234", "1234", "unix:", "", "udp:127.0.0.1:1",
                              "tcp:127.0.0.1:99999", "tcp:127.0.0.1:", "tcp:127.0.0.1:port"}) {
    INFO(address);
    try {
      const Listener listener(address);
      FAIL("listens");
    } catch (const Error& error) {
      CHECK(error.status() == ExitStatus::kUsage);
    }
  }
}

}  // namespace snapgdb::gdbstub
