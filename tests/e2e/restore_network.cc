// snapgdb restore: sockets of the network, in network namespaces of the tests' own.

#include <signal.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

bool needs_root() {
  return skip_unless(geteuid() == 0, "only root makes networks and repairs connections");
}

TEST_CASE("connections in every state, and datagrams nobody has read, come back twice") {
  if (needs_root()) return;
  const OwnNetwork network;
  const TempDir directory;
  Target target("inet_sockets");
  take_away(target.running(), directory / "image");
  for (int round = 0; round < 2; ++round) {
    const OwnNetwork fresh;  // without what is left of closed connections for a minute (TIME-WAIT)
    const Result end = run_again(directory / "image");
    INFO(end);
    CHECK(end.ok());
    CHECK(end.err == "");
  }
}

TEST_CASE("they come back isolated, too") {
  if (needs_root()) return;
  const TempDir directory;
  Target target("inet_sockets");
  take_away(target.running(), directory / "image");
  for (int round = 0; round < 2; ++round) {
    const Result end =
        run_again(directory / "image", {"--isolated", "--scratch", directory / "scratch"});
    INFO(end);
    CHECK(end.ok());
  }
}

TEST_CASE("an ordinary user's connections come back isolated, and are in the way otherwise") {
  if (needs_root()) return;
  const TempDir directory;
  std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Target target("inet_sockets", {"--plain"}, {.user = kNobody});
  take_away(target.running(), directory / "image", {.user = kNobody});
  const Result refused = snapgdb({"restore", directory / "image"}, {.user = kNobody});
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, "only root makes a connection again"));
  const Result end = run_again(
      directory / "image", {"--isolated", "--scratch", directory / "scratch"}, {.user = kNobody});
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("groups, shared ports, addresses of others, a backlog and ended connections come back") {
  if (needs_root()) return;
  const TempDir directory;
  for (const Words& options : {Words{}, Words{"--isolated"}}) {
    CAPTURE(options);
    const OwnNetwork network;
    Target target("rare_sockets");
    take_away(target.running(), directory / "image");
    for (int round = 0; round < 2; ++round) {
      const OwnNetwork fresh;
      const Result end = run_again(directory / "image", options);
      INFO(end);
      CHECK(end.ok());
    }
  }
}

TEST_CASE("they come back isolated for an ordinary user, too") {
  if (needs_root()) return;
  const OwnNetwork network;
  const TempDir directory;
  std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Target target("rare_sockets", {"--plain"}, {.user = kNobody});
  take_away(target.running(), directory / "image", {.user = kNobody});
  const Result end = run_again(
      directory / "image", {"--isolated", "--scratch", directory / "scratch"}, {.user = kNobody});
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("what of sockets cannot be carried is said at the capture and at the restore") {
  if (needs_root()) return;
  const OwnNetwork network;
  const TempDir directory;
  Target target("rare_sockets", {"--lost"}, {.input = RunOptions::kPipe});
  const Result captured =
      snapgdb({"capture", std::to_string(target.pid()), "-o", directory / "image"});
  INFO(captured);
  CHECK(captured.status == 3);
  CHECK(contains(captured.err, "UDP_CORK"));
  CHECK(contains(captured.err, "it was not fetched yet"));
  CHECK(target.finish().ok());
  const Result refused = snapgdb({"restore", directory / "image"});
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, "multipath TCP (MPTCP) cannot be restored"));
}

TEST_CASE("a busy connection loses no byte while it is captured ten times a second") {
  if (needs_root()) return;
  const OwnNetwork network;
  const TempDir directory;
  Target target("inet_sockets", {"--busy"}, {.input = RunOptions::kPipe});
  for (int round = 0; round < 20; ++round) {
    capture(target.pid(), directory / "image");
    usleep(50'000);
  }
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("a busy connection whose capture is killed at any moment loses no byte") {
  if (needs_root()) return;
  const OwnNetwork network;
  const TempDir directory;
  Target target("inet_sockets", {"--busy"}, {.input = RunOptions::kPipe});
  for (int round = 0; round < 30; ++round) {
    Running capture(
        {program(), "capture", std::to_string(target.pid()), "-o", directory / "image"});
    usleep(static_cast<useconds_t>(round * 3000));
    kill(capture.pid(), SIGKILL);
    capture.wait();
  }
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("a busy connection goes on in both ends after it was taken away") {
  if (needs_root()) return;
  const OwnNetwork network;
  const TempDir directory;
  Target target("inet_sockets", {"--busy"}, {.input = RunOptions::kPipe});
  usleep(100'000);
  take_away(target.running(), directory / "image");
  Running restored({program(), "restore", directory / "image"}, {.input = RunOptions::kPipe});
  usleep(500'000);
  restored.close_input();
  const Result end = restored.wait();
  INFO(end);
  CHECK(end.ok());
}

// A server and, outside of its tree, a client with a connection to it, on which the server has
// said "ready".
constexpr const char* kServer =
    "import socket, sys\n"
    "listening = socket.create_server(('127.0.0.1', 0)); print('port', listening.getsockname()[1], "
    "flush=True)\n"
    "connection, _ = listening.accept(); print('ready', flush=True)\n"
    "try:\n"
    "  for line in connection.makefile('rb'): connection.sendall(line.upper())\n"
    "except OSError as error: print(error, flush=True)\n"
    "print('end', flush=True)\n";
constexpr const char* kClient =
    "import socket, sys\n"
    "connection = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
    "lines = connection.makefile('rb')\n"
    "print('connected', flush=True); sys.stdin.readline()\n"
    "try:\n"
    "  for i in range(20):\n"
    "    connection.sendall(b'line %d\\n' % i); assert lines.readline() == b'LINE %d\\n' % i\n"
    "  print('answered', flush=True)\n"
    "except (OSError, AssertionError): print('lost', flush=True)\n";

struct Conversation {
  Running server{{"python3", "-c", kServer}, {.input = RunOptions::kPipe}};
  Running client{{"python3", "-c", kClient, server.wait_for_line("port ").substr(5)},
                 {.input = RunOptions::kPipe}};

  Conversation() {
    client.wait_for_line("connected");
    server.wait_for_line("ready");
  }
};

TEST_CASE("a connection to outside is in the way, and kept or closed if asked for") {
  if (needs_root()) return;
  const OwnNetwork network;
  const TempDir directory;
  Conversation conversation;
  const Result captured =
      snapgdb({"capture", std::to_string(conversation.server.pid()), "-o", directory / "image",
               "--kill", "--all-memory", "--tcp-established"});
  INFO(captured);
  REQUIRE(captured.ok());
  CHECK(contains(captured.err, "nft delete table inet snapgdb-"));
  conversation.server.wait();
  // What is sent now waits.
  conversation.client.write("\n");
  const Result refused = snapgdb({"restore", directory / "image"});
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, "it is a connection to outside of the tree"));
  CHECK(contains(refused.err, "--tcp-close"));
  usleep(300'000);
  const Result kept = run_again(directory / "image", {"--tcp-established"});
  INFO(kept);
  CHECK(kept.out == "end\n");
  const Result client = conversation.client.wait();
  CHECK(contains(client.out, "answered"));
  const Result closed = run_again(directory / "image", {"--tcp-close"});
  INFO(closed);
  CHECK(closed.out == "end\n");
}

TEST_CASE("what is to be closed need not have been kept, and nothing stays locked") {
  if (needs_root()) return;
  const OwnNetwork network;
  for (const Words& kept : {Words{}, Words{"--tcp-established"}}) {
    CAPTURE(kept);
    const TempDir directory;
    const std::string image = directory / "image";
    Conversation conversation;
    Words command{"capture",     std::to_string(conversation.server.pid()), "-o", image, "--kill",
                  "--all-memory"};
    command.insert(command.end(), kept.begin(), kept.end());
    const Result captured = snapgdb(command);
    INFO(captured);
    REQUIRE(captured.ok());
    conversation.server.wait();
    const Result closed = run_again(image, {"--tcp-close"});
    INFO(closed);
    CHECK(closed.out == "end\n");
    CHECK_FALSE(contains(closed.err, "nft"));
    if (installed("nft")) CHECK(run({"nft", "list", "tables"}).out == "");
  }
}

TEST_CASE("for whom a network of the tree's own answers comes back, and its queues are named") {
  if (needs_root()) return;
  if (skip_unless(installed("ip") && installed("tc"), "there is no ip, or no tc")) return;
  constexpr const char* kApart =
      "assert libc.unshare(0x40000000) == 0\n"
      "def proxies(): return os.popen('ip neigh show proxy').read()\n"
      "assert os.system('ip link set lo up && ip neigh add proxy 10.1.2.3 dev lo') == 0\n";
  TakenPython proxy(kApart, "assert '10.1.2.3' in proxies(), proxies()");
  proxy.take();
  proxy.check_runs_again();
  const TakenPython shaped(
      std::string(kApart) +
          "queue = 'tc qdisc add dev lo root tbf rate 1mbit burst 10kb latency 50ms'\n"
          "print('shaped', os.system(queue), flush=True)",
      "");
  if (skip_unless(contains(shaped.running.out(), "shaped 0"), "this kernel has no tbf")) return;
  const Result captured =
      snapgdb({"capture", std::to_string(shaped.running.pid()), "-o", shaped.image});
  INFO(captured);
  CHECK(captured.status == 3);
  check_says(captured, {"queueing discipline tbf of link lo"});
}

TEST_CASE("python's web server answers on its connection after it was taken away") {
  if (needs_root()) return;
  const OwnNetwork network;
  const TempDir directory;
  write_file(directory / "page", "content of the page\n");
  const int port = free_port();
  Running server({"python3", "-c",
                  "import http.server as h\n"
                  "class Handler(h.SimpleHTTPRequestHandler): protocol_version = 'HTTP/1.1'\n"
                  "import sys; h.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), "
                  "Handler).serve_forever()\n",
                  std::to_string(port)},
                 {.directory = directory.path()});
  Running client({"python3", "-c",
                  "import http.client, sys, time\n"
                  "c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]))\n"
                  "while True:\n"
                  "  try: c.connect(); break\n"
                  "  except OSError: time.sleep(0.05)\n"
                  "def get(): c.request('GET', '/page'); return c.getresponse().read()\n"
                  "first = get(); print('first', flush=True); sys.stdin.readline()\n"
                  "print(first == get() == b'content of the page\\n', flush=True)\n",
                  std::to_string(port)},
                 {.input = RunOptions::kPipe});
  client.wait_for_line("first");
  const Result captured =
      snapgdb({"capture", std::to_string(server.pid()), "-o", directory / "image", "--kill",
               "--all-memory", "--tcp-established"});
  INFO(captured);
  REQUIRE(captured.ok());
  server.wait();
  Running restored({program(), "restore", directory / "image", "--tcp-established"});
  client.write("\n");
  client.wait_for_line("True");
  restored.kill();
}

}  // namespace
}  // namespace snapgdb::e2e
