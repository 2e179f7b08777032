// Servers that nobody here wrote, and small ones in other languages, photographed ten times a
// second while clients check every answer they get: nobody sees an error, and nothing is left
// behind.

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <regex>
#include <thread>

#include "tests/e2e/harness.h"
#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
namespace fs = std::filesystem;

constexpr milliseconds kInterval{100};
// $SNAPGDB_LOAD seconds of it, for whoever hunts something rare.
const Seconds kLoad{getenv("SNAPGDB_LOAD") ? atoi(getenv("SNAPGDB_LOAD")) : 5};

// ---- The table ------------------------------------------------------------------------------

// Everything here that is run is for the shell, in the server's scratch directory, with $PORT free
// on loopback and $HERE the directory of this file.
struct Server {
  std::string name;
  Words programs;         // without which there is no test
  std::string start;      // becomes the server, which stays in the foreground
  std::string ready;      // succeeds as soon as it serves, and fills it
  Words clients;          // repeated while it is captured; each fails at an error or a wrong answer
  std::string sums;       // succeeds if everything adds up in the end
  std::string complaint;  // what is in its log if something went wrong: a regular expression
  bool may_be_root = true;
  bool keeps_its_memory_map = true;  // while nobody asks it anything
};

const std::string kCheck = "python3 $HERE/check.py ";
const std::string kServesOverHttp = "curl -sf -o answer http://127.0.0.1:$PORT/1";

const Server kPostgresql{
    .name = "postgresql",
    .programs = {"initdb", "postgres", "pgbench", "psql"},
    .start =
        "initdb -D data -U test -A trust >initdb.log && "
        "exec postgres -D data -k $PWD -h 127.0.0.1 -p $PORT -c shared_buffers=16MB "
        "-c fsync=off",
    .ready = "pg_isready -q && pgbench -iq",
    .clients = {"pgbench -n -c 4 -j 2 -T 1 | grep -q 'failed transactions: 0 '",
                "pgbench -n -S -C -c 2 -T 1 | grep -q 'failed transactions: 0 '"},
    .sums = R"(psql -Atc "
        select count(distinct sum) = 1 and bool_and(sum is not null) from (
          select sum(abalance) from pgbench_accounts union all
          select sum(bbalance) from pgbench_branches union all
          select sum(tbalance) from pgbench_tellers union all
          select sum(delta) from pgbench_history) sums" | grep -qx t)",
    .complaint = "ERROR|FATAL|PANIC|WARNING|terminated by signal|could not",
    .may_be_root = false};

// It saves all the time: children that are a copy of it come and go.
const Server kRedis{
    .name = "redis-server",
    .programs = {"redis-server", "redis-cli", "redis-benchmark"},
    .start =
        "exec redis-server --port $PORT --bind 127.0.0.1 --dir $PWD --save 1 1 "
        "--appendonly yes --io-threads 2",
    .ready = "redis-cli -p $PORT ping | grep -q PONG",
    .clients =
        {"redis-benchmark -p $PORT -q -c 8 -n 5000 -t set,get,incr,lpush,mset >benchmark.log",
         kCheck + "redis $PORT"},
    .complaint = "# .*(rror|ailed|rash|signal [0-9])|terminated by signal"};

const Server kNginx{.name = "nginx",
                    .programs = {"nginx", "curl", "h2load"},
                    .start = R"(
        seq 4000 >file; for i in $(seq 20); do cat file; done >twenty
        cat >conf <<END
daemon off; pid $PWD/pid; error_log stderr; worker_processes 2;
events { worker_connections 64; }
http { access_log off; client_body_temp_path $PWD; proxy_temp_path $PWD;
       fastcgi_temp_path $PWD; uwsgi_temp_path $PWD; scgi_temp_path $PWD;
       keepalive_requests 1000000; server { listen 127.0.0.1:$PORT; root $PWD; } }
END
        exec nginx -e stderr -c $PWD/conf -g "user $(id -un);")",
                    .ready = "curl -sf -o answer http://127.0.0.1:$PORT/file",
                    .clients = {"curl -sSf \"http://127.0.0.1:$PORT/file?[1-20]\" | cmp - twenty",
                                "h2load --h1 -c 4 -D 1 http://127.0.0.1:$PORT/file | "
                                "grep -q ' 0 failed, 0 errored, 0 timeout'"},
                    .complaint = "exited on signal|failed"};

const Server kNghttpd{
    .name = "nghttpd",
    .programs = {"nghttpd", "curl", "h2load"},
    .start = "seq 10000 >file; exec nghttpd --no-tls --address=127.0.0.1 -n 3 -d $PWD $PORT",
    .ready = "curl -sf --http2-prior-knowledge -o answer http://127.0.0.1:$PORT/file",
    .clients = {"curl -sSf --http2-prior-knowledge http://127.0.0.1:$PORT/file | cmp - file",
                "h2load -c 4 -D 1 http://127.0.0.1:$PORT/file | "
                "grep -q ' 0 failed, 0 errored, 0 timeout'"},
    .complaint = "."};

const Server kNode{.name = "node",
                   .programs = {"node", "curl"},
                   .start = "exec node $HERE/server.js $PORT",
                   .ready = kServesOverHttp,
                   .clients = {kCheck + "http $PORT"},
                   .complaint = ".",
                   .keeps_its_memory_map = false};

const Server kGo{.name = "go",
                 .programs = {"go", "curl"},
                 .start =
                     "GOCACHE=$PWD/cache GOFLAGS=-mod=mod GO111MODULE=off "
                     "go build -o server $HERE/server.go && exec ./server $PORT",
                 .ready = kServesOverHttp,
                 .clients = {kCheck + "http $PORT"},
                 .complaint = ".",
                 .keeps_its_memory_map = false};

// A JRE compiles a single file itself.
const Server kJava{.name = "java",
                   .programs = {"java", "curl"},
                   .start = "exec java -Xmx64m -XX:-UsePerfData $HERE/Server.java $PORT",
                   .ready = kServesOverHttp,
                   .clients = {kCheck + "http $PORT"},
                   .complaint = ".",
                   .keeps_its_memory_map = false};

const Server kTmux{.name = "tmux",
                   .programs = {"tmux"},
                   .start = "exec tmux -D -S socket -f /dev/null",
                   .ready = "tmux -N -S socket new-session -d -s idle cat",
                   .clients = {kCheck + "tmux socket"},
                   .complaint = "."};

// ---- A server with its clients --------------------------------------------------------------

struct Who {
  uid_t server, snapgdb;
};

// As whom a server runs and is captured: by root, and by the ordinary user whose it is.
std::vector<Who> who_captures(const Server& server) {
  if (geteuid() != 0) return {{geteuid(), geteuid()}};
  return {{server.may_be_root ? 0 : kNobody, 0}, {kNobody, kNobody}};
}

class Scene {
 public:
  Scene(const Server& server, uid_t user) : user_(user), port_(std::to_string(free_port())) {
    if (geteuid() == 0) REQUIRE(chown(directory_.path().c_str(), user, user) == 0);
    server_ = std::make_unique<Running>(shell(server.start));
    for (int i = 0; i < 3000 && !server_->exited(); ++i, usleep(20000)) {
      if (asks(server.ready).ok()) return;
    }
    FAIL(server.name << " does not serve: " << log());
  }
  // It goes as it should, also when a test fails: some leave shared memory behind otherwise.
  ~Scene() { end(Seconds(10)); }
  Scene(const Scene&) = delete;

  pid_t pid() const { return server_->pid(); }
  std::string log() const { return server_->out() + server_->err(); }

  Result asks(const std::string& script) { return Running(shell(script)).wait(); }
  // Repeats the script until `stop_clients`.
  Running client(const std::string& script) {
    return Running(shell("set -o pipefail; until [ -e stop ]; do " + script + " || exit 1; done"));
  }
  void stop_clients() { write_file(directory_ / "stop", ""); }
  void let_clients_ask() { fs::remove(directory_ / "stop"); }
  Running& server() { return *server_; }

  Result end(Seconds patience = kPatience) {
    if (!server_->exited()) kill(pid(), SIGTERM);
    return server_->wait(patience);
  }

 private:
  Running shell(const std::string& script) const {
    const std::string directory = directory_.path();
    return Running({"bash", "-c", script},
                   {.directory = directory,
                    .environment = {{"PATH", search_path()},
                                    {"HERE", SNAPGDB_SERVERS},
                                    {"PORT", port_},
                                    // nobody's own is nologin: tmux's shells would end
                                    {"SHELL", "/bin/sh"},
                                    {"HOME", directory},
                                    {"TMPDIR", directory},
                                    {"PGHOST", "127.0.0.1"},
                                    {"PGPORT", port_},
                                    {"PGUSER", "test"},
                                    {"PGDATABASE", "postgres"}},
                    .user = user_});
  }

  uid_t user_;
  std::string port_;
  TempDir directory_;
  std::unique_ptr<Running> server_;
};

// ---- What a tree looks like from outside ----------------------------------------------------

struct Process {
  char state = 0;
  long threads = 0, descriptors = 0, mappings = 0;
  bool operator==(const Process&) const = default;
};
using Tree = std::map<pid_t, Process>;

std::ostream& operator<<(std::ostream& out, const Tree& tree) {
  for (const auto& [pid, is] : tree) {
    out << fmt::format("{}: {} zombie, {} threads, {} descriptors, {} mappings\n", pid,
                       is.state == 'Z' ? "a" : "no", is.threads, is.descriptors, is.mappings);
  }
  return out;
}

long entries(const std::string& directory) {
  std::error_code gone;
  const fs::directory_iterator all(directory, gone);
  return gone ? 0 : std::distance(begin(all), end(all));
}

void look_at(pid_t pid, bool memory_too, Tree& tree) {
  const std::string proc = fmt::format("/proc/{}", pid);
  std::ifstream maps(memory_too ? proc + "/maps" : "/dev/null");
  tree[pid] = {.state = state_of(pid) == 'Z' ? 'Z' : 'S',
               .threads = entries(proc + "/task"),
               .descriptors = entries(proc + "/fd"),
               .mappings = std::count(std::istreambuf_iterator<char>(maps), {}, '\n')};
  for (const pid_t child : children_of(pid)) look_at(child, memory_too, tree);
}

Tree look_at(pid_t pid, bool memory_too) {
  Tree tree;
  look_at(pid, memory_too, tree);
  return tree;
}

// What an image says of the same.
std::map<pid_t, long> threads_in(const std::string& image) {
  std::map<pid_t, long> threads;
  const Result shown = snapgdb({"show", image, "tree"});
  INFO(shown);
  CHECK(shown.ok());
  for (const std::string& line : lines_of(shown.out)) {
    int pid, parent, number;
    if (sscanf(line.c_str(), "%d %d %d", &pid, &parent, &number) == 3) threads[pid] = number;
  }
  return threads;
}

std::map<pid_t, long> threads_in(const Tree& tree) {
  std::map<pid_t, long> threads;
  for (const auto& [pid, is] : tree) threads[pid] = is.threads;
  return threads;
}

// ---- The test -------------------------------------------------------------------------------

struct Camera {
  const Scene& scene;
  uid_t user;
  std::string image;

  void shoot() const {
    capture(scene.pid(), image, {"--level", "0"}, {.user = user});
    const Result verified = snapgdb({"verify", image});
    INFO(verified);
    CHECK(verified.ok());
  }
};

// One capture every 100 ms, or one after the other where that takes longer.
int capture_under_load(const Camera& camera) {
  int captures = 0;
  for (const auto end = Clock::now() + kLoad; Clock::now() < end; ++captures) {
    const auto next = Clock::now() + kInterval;
    camera.shoot();
    std::this_thread::sleep_until(next);
  }
  return captures;
}

// While nobody asks for anything, a capture changes nothing that can be seen from outside, and has
// in it what can be seen from outside. A server that does something of its own gets more chances.
void check_idle_capture(const Server& server, const Camera& camera) {
  Tree before, after;
  for (int chance = 0; chance < 10; ++chance, usleep(200000)) {
    before = look_at(camera.scene.pid(), server.keeps_its_memory_map);
    camera.shoot();
    after = look_at(camera.scene.pid(), server.keeps_its_memory_map);
    if (before == after && threads_in(camera.image) == threads_in(before)) return;
  }
  INFO(before << "then\n" << after);
  CHECK(before == after);
  CHECK(threads_in(camera.image) == threads_in(after));
}

long descriptors_of(pid_t pid) {
  return entries(fmt::format("/proc/{}/fd", pid));
}

// Once its clients are gone, a server has no more children, zombies and descriptors than before
// they came. It may have fewer: one of the first client may just have been going then.
void check_settles(pid_t pid, size_t children, long descriptors) {
  const auto has_settled = [&] {
    return children_of(pid).size() <= children && descriptors_of(pid) <= descriptors;
  };
  for (int i = 0; i < 1000 && !has_settled(); ++i) usleep(20000);
  CHECK(children_of(pid).size() <= children);
  CHECK(descriptors_of(pid) <= descriptors);
}

void check_log(const std::string& log, const std::string& complaint) {
  for (const std::string& line : lines_of(log)) {
    CAPTURE(line);
    CHECK_FALSE(std::regex_search(line, std::regex(complaint)));
  }
}

void check_undisturbed(const Server& server, Who who) {
  const TempDir images;
  if (geteuid() == 0) REQUIRE(chown(images.path().c_str(), who.snapgdb, who.snapgdb) == 0);
  Scene scene(server, who.server);
  const Camera camera{scene, who.snapgdb, images / "image"};
  const size_t greeting = scene.log().size();
  const size_t children = children_of(scene.pid()).size();
  const long descriptors = descriptors_of(scene.pid());

  std::vector<Running> clients;
  for (const std::string& client : server.clients) clients.push_back(scene.client(client));
  const int captures = capture_under_load(camera);
  scene.stop_clients();
  for (Running& client : clients) {
    const Result result = client.wait();
    INFO(result);
    CHECK(result.ok());
  }
  fmt::print("{} of user {}, captured {} times by user {}\n", server.name, who.server, captures,
             who.snapgdb);
  INFO("its log:\n" << scene.log());
  CHECK(scene.asks(server.sums).ok());
  check_settles(scene.pid(), children, descriptors);
  check_idle_capture(server, camera);
  check_log(scene.log().substr(greeting), server.complaint);
  const Result end = scene.end();
  INFO(end);
  CHECK((end.ok() || end.signal == SIGTERM));
}

void check_undisturbed(const Server& server) {
  for (const std::string& program : server.programs) {
    if (skip_unless(installed(program), program + " is not installed")) return;
  }
  for (const Who who : who_captures(server)) check_undisturbed(server, who);
}

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
  const pid_t pid = std::stoi(back.out);
  ask_for_a_while(scene, server);
  const std::vector<pid_t> pids = tree_of(pid);
  kill(pid, SIGTERM);
  for (const pid_t one : pids) await_end(one);
}

void check_comes_back(const Server& server) {
  for (const std::string& program : server.programs) {
    if (skip_unless(installed(program), program + " is not installed")) return;
  }
  for (const Who who : who_captures(server)) check_comes_back(server, who);
}

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

// ---- All of them ------------------------------------------------------------------------------

TEST_CASE("postgresql answers rightly while it is captured ten times a second") {
  check_undisturbed(kPostgresql);
}
TEST_CASE("redis-server answers rightly while it is captured ten times a second") {
  check_undisturbed(kRedis);
}
TEST_CASE("nginx answers rightly while it is captured ten times a second") {
  check_undisturbed(kNginx);
}
TEST_CASE("nghttpd answers rightly while it is captured ten times a second") {
  check_undisturbed(kNghttpd);
}
TEST_CASE("a server in JavaScript answers rightly while it is captured ten times a second") {
  check_undisturbed(kNode);
}
TEST_CASE("a server in Go answers rightly while it is captured ten times a second") {
  check_undisturbed(kGo);
}
TEST_CASE("a server in Java answers rightly while it is captured ten times a second") {
  check_undisturbed(kJava);
}
TEST_CASE("tmux and its shells work rightly while they are captured ten times a second") {
  check_undisturbed(kTmux);
}

}  // namespace
}  // namespace snapgdb::e2e
