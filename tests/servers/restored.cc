// Servers that are taken away and come back: with what they keep, and with their clients still
// connected.

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <iterator>
#include <optional>

#include "tests/servers/scene.h"

namespace snapgdb::e2e {
namespace {

// ---- Taken away, and back again ---------------------------------------------------------------

// Every client has had its answers, and is gone.
void ask_for_a_while(Scene& scene, const Server& server) {
  std::vector<Running> clients;
  for (const std::string& client : server.clients) clients.push_back(scene.client(client));
  usleep(500'000);
  scene.stop_clients();
  for (Running& client : clients) {
    const Result result = client.wait();
    INFO(result);
    CHECK(result.ok());
  }
  scene.let_clients_ask();
  CHECK(scene.asks(server.sums).ok());
}

// Of a restore with --detach, among what the server itself says.
pid_t first_process_of(const Result& restore) {
  const std::vector<std::string> lines = lines_of(restore.out);
  const auto is_number = [](const std::string& line) {
    return !line.empty() && std::ranges::all_of(line, [](char c) { return c >= '0' && c <= '9'; });
  };
  const auto found = std::ranges::find_if(lines, is_number);
  REQUIRE(found != lines.end());
  return std::stoi(*found);
}

// Servers that keep something know it again, however often they are brought back.
void check_comes_back(const Server& server, Who who) {
  CAPTURE(server.name, who.server, who.snapgdb);
  const TempDir images;
  if (geteuid() == 0) REQUIRE(chown(images.path().c_str(), who.snapgdb, who.snapgdb) == 0);
  const std::string image = images / "image";
  Scene scene(server, who.server);
  ask_for_a_while(scene, server);
  take_away(scene.server(), image, {.user = who.snapgdb});
  // What it leaves running in its process group ends with it.
  Running restore({program(), "restore", image, "--detach"},
                  {.directory = "/", .user = who.snapgdb});
  const Result back = restore.wait();
  INFO(back);
  REQUIRE((back.status == 0 || back.status == 3));
  const pid_t pid = first_process_of(back);
  ask_for_a_while(scene, server);
  const std::vector<pid_t> pids = tree_of(pid);
  kill(pid, SIGTERM);
  for (const pid_t one : pids) await_end(one);
}

void check_comes_back(const Server& server) {
  if (!can_run(server)) return;
  for (const Who who : who_captures(server)) check_comes_back(server, who);
}

// ---- With clients that stay connected ---------------------------------------------------------

void check_ended(std::vector<Running>& clients) {
  for (Running& client : clients) {
    const Result result = client.wait();
    INFO(result);
    CHECK(result.ok());
  }
}

// The clients are outside of the tree, and see a delay.
void check_stays_connected(const Server& server) {
  if (skip_unless(geteuid() == 0, "only root repairs connections") || !can_run(server)) return;
  CAPTURE(server.name);
  const OwnNetwork network;
  const TempDir images;
  Scene scene(server, server.may_be_root ? 0 : kNobody);
  Words over_network;  // a unix socket whose other end is outside is in the way
  std::ranges::copy_if(server.talks, std::back_inserter(over_network), [](const std::string& talk) {
    return talk.find(" socket") == std::string::npos && talk.find("$PWD") == std::string::npos;
  });
  std::vector<Running> clients = scene.talks(over_network);
  pid_t pid = scene.pid();
  for (int round = 0; round < 3; ++round) {
    usleep(300'000);
    const std::vector<pid_t> pids = tree_of(pid);
    capture(pid, images / "image", {"--kill", "--all-memory", "--tcp-established"});
    for (const pid_t one : pids) await_end(one);
    usleep(300'000);
    Running restore({program(), "restore", images / "image", "--detach", "--tcp-established"},
                    {.directory = "/"});
    const Result back = restore.wait();
    INFO(back);
    REQUIRE((back.status == 0 || back.status == 3));
    pid = first_process_of(back);
  }
  usleep(700'000);
  scene.stop_clients();
  check_ended(clients);
  CHECK(scene.asks(server.sums).ok());
  const std::vector<pid_t> pids = tree_of(pid);
  kill(pid, SIGTERM);
  for (const pid_t one : pids) await_end(one);
}

// Server and clients are one tree.
void check_comes_back_with_clients(const Server& server, Who who, const Words& options) {
  CAPTURE(server.name, who.server, who.snapgdb, options);
  const TempDir images;
  if (geteuid() == 0) REQUIRE(chown(images.path().c_str(), who.snapgdb, who.snapgdb) == 0);
  std::optional<OwnNetwork> network;
  if (geteuid() == 0) network.emplace();
  const auto scene = Scene::in_one_tree(server, who.server);
  usleep(300'000);
  take_away(scene->server(), images / "image", {.user = who.snapgdb});
  // Outside of a sandbox, what it keeps in files is further on the second time.
  const int rounds = options.empty() ? 1 : 2;
  for (int round = 0; round < rounds; ++round) {
    std::optional<OwnNetwork> fresh;  // without what is left of connections (TIME-WAIT)
    if (geteuid() == 0) fresh.emplace();
    Words command{program(), "restore", images / "image"};
    command.insert(command.end(), options.begin(), options.end());
    Running restored(command, {.input = RunOptions::kPipe,
                               .environment = {{"TMPDIR", images.path()}},
                               .user = who.snapgdb});
    usleep(700'000);
    restored.close_input();
    const Result end = restored.wait();
    INFO(end);
    CHECK(end.ok());
  }
}

void check_comes_back_with_clients(const Server& server) {
  if (!can_run(server)) return;
  // Outside of a sandbox, only root makes connections again.
  if (geteuid() == 0)
    check_comes_back_with_clients(server, {server.may_be_root ? 0 : kNobody, 0}, {});
  const uid_t ordinary = geteuid() == 0 ? kNobody : geteuid();
  check_comes_back_with_clients(server, {ordinary, ordinary}, {"--isolated"});
}

TEST_CASE("postgresql goes on with its transactions over connections that stay") {
  check_stays_connected(kPostgresql);
}
TEST_CASE("redis-server goes on over connections that stay") {
  check_stays_connected(kRedis);
}
TEST_CASE("nginx goes on over connections that stay") {
  check_stays_connected(kNginx);
}
TEST_CASE("a server in JavaScript goes on over connections that stay") {
  check_stays_connected(kNode);
}
TEST_CASE("a server in Go goes on over connections that stay") {
  check_stays_connected(kGo);
}
TEST_CASE("a server in Java goes on over connections that stay") {
  check_stays_connected(kJava);
}
TEST_CASE("python's socketserver goes on over connections that stay, with threads and forks") {
  check_stays_connected(kThreads);
  check_stays_connected(kForks);
}

// By hand: servers_tests '[connected]'. They fail where an ordinary user's bytes were on their way
// at the moment of the snapshot.
constexpr char kConnected[] = "[.][connected]";

TEST_CASE("postgresql comes back in the midst of transactions of clients in its tree", kConnected) {
  check_comes_back_with_clients(kPostgresql);
}
TEST_CASE("redis-server comes back with clients in its tree", kConnected) {
  check_comes_back_with_clients(kRedis);
}
TEST_CASE("nginx comes back with clients in its tree", kConnected) {
  check_comes_back_with_clients(kNginx);
}
TEST_CASE("a server in JavaScript comes back with clients in its tree", kConnected) {
  check_comes_back_with_clients(kNode);
}
TEST_CASE("a server in Go comes back with clients in its tree", kConnected) {
  check_comes_back_with_clients(kGo);
}
TEST_CASE("a server in Java comes back with clients in its tree", kConnected) {
  check_comes_back_with_clients(kJava);
}
TEST_CASE("python's socketserver comes back with clients in its tree", kConnected) {
  check_comes_back_with_clients(kThreads);
  check_comes_back_with_clients(kForks);
}
TEST_CASE("dbus-daemon comes back with clients in its tree", kConnected) {
  check_comes_back_with_clients(kBus);
}

// ---- With what they keep ------------------------------------------------------------------------

TEST_CASE("postgresql comes back with its tables") {
  check_comes_back(kPostgresql);
}
TEST_CASE("redis-server comes back with its keys") {
  check_comes_back(kRedis);
}
TEST_CASE("nginx comes back with its workers") {
  check_comes_back(kNginx);
}
TEST_CASE("a server in JavaScript comes back") {
  check_comes_back(kNode);
}
TEST_CASE("a server in Go comes back") {
  check_comes_back(kGo);
}
TEST_CASE("a server in Java comes back") {
  check_comes_back(kJava);
}
TEST_CASE("tmux comes back with its shells") {
  check_comes_back(kTmux);
}

}  // namespace
}  // namespace snapgdb::e2e
