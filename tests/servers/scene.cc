#include "tests/servers/scene.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/shm.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace snapgdb::e2e {
namespace {

const std::string kCheck = "python3 $HERE/check.py ";
const std::string kServesOverHttp = "curl -sf -o answer http://127.0.0.1:$PORT/1";
const std::string kServesLines =
    "python3 -c 'import socket, sys; socket.create_connection((\"127.0.0.1\", int(sys.argv[1])))' "
    "$PORT";

}  // namespace

// ---- The table ------------------------------------------------------------------------------

const Server kPostgresql{
    .name = "postgresql",
    .programs = {"initdb", "postgres", "pgbench", "psql"},
    .start =
        "initdb -D data -U test -A trust >initdb.log && "
        "exec postgres -D data -k $PWD -h 127.0.0.1 -p $PORT -c shared_buffers=16MB -c "
        "huge_pages=off "
        "-c fsync=off",
    .ready = "pg_isready -q && pgbench -iq",
    .clients = {"pgbench -n -c 4 -j 2 -T 1 | grep -q 'failed transactions: 0 '",
                "pgbench -n -S -C -c 2 -T 1 | grep -q 'failed transactions: 0 '"},
    .talks = {kCheck + "transaction 127.0.0.1", kCheck + "transaction $PWD",
              // its first line is that of the first second
              "pgbench -n -c 4 -j 2 -T 6 -P 1 2>&1 | "
              "{ read line; touch begun.pgbench; grep -q 'failed transactions: 0 '; }"},
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
        "--unixsocket $PWD/socket --appendonly yes --io-threads 2",
    .ready = "redis-cli -p $PORT ping | grep -q PONG",
    .clients =
        {"redis-benchmark -p $PORT -q -c 8 -n 5000 -t set,get,incr,lpush,mset >benchmark.log",
         kCheck + "redis $PORT"},
    .talks = {kCheck + "redis $PORT", kCheck + "pipeline $PORT", kCheck + "pipeline socket"},
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
                    .talks = {kCheck + "file $PORT", kCheck + "file $PORT"},
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
                   .talks = {kCheck + "http $PORT"},
                   .complaint = ".",
                   .keeps_its_memory_map = false};

const Server kGo{.name = "go",
                 .programs = {"go", "curl"},
                 .start =
                     "GOCACHE=$PWD/cache GOFLAGS=-mod=mod GO111MODULE=off "
                     "go build -o server $HERE/server.go && exec ./server $PORT",
                 .ready = kServesOverHttp,
                 .clients = {kCheck + "http $PORT"},
                 .talks = {kCheck + "http $PORT"},
                 .complaint = ".",
                 .keeps_its_memory_map = false};

// A JRE compiles a single file itself.
const Server kJava{.name = "java",
                   .programs = {"java", "curl"},
                   .start = "exec java -Xmx64m -XX:-UsePerfData $HERE/Server.java $PORT",
                   .ready = kServesOverHttp,
                   .clients = {kCheck + "http $PORT"},
                   .talks = {kCheck + "http $PORT"},
                   .complaint = ".",
                   .keeps_its_memory_map = false};

const Server kTmux{.name = "tmux",
                   .programs = {"tmux"},
                   .start = "exec tmux -D -S socket -f /dev/null",
                   .ready = "tmux -N -S socket new-session -d -s idle cat",
                   .clients = {kCheck + "tmux socket"},
                   .complaint = "."};

const Server kThreads{.name = "socketserver with threads",
                      .programs = {"python3"},
                      .start = "exec python3 $HERE/socket_server.py threads $PORT",
                      .ready = kServesLines,
                      .talks = {kCheck + "line $PORT"}};

const Server kForks{.name = "socketserver with forks",
                    .programs = {"python3"},
                    .start = "exec python3 $HERE/socket_server.py forks $PORT",
                    .ready = kServesLines,
                    .talks = {kCheck + "line $PORT"}};

const Server kBus{.name = "dbus-daemon",
                  .programs = {"dbus-daemon", "dbus-send"},
                  .start = R"(
        cat >conf <<END
<busconfig><type>session</type><listen>unix:path=$PWD/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/>
<allow eavesdrop="true"/><allow own="*"/></policy></busconfig>
END
        exec dbus-daemon --nofork --nopidfile --config-file=conf)",
                  .ready =
                      "dbus-send --bus=unix:path=$PWD/bus --print-reply --dest="
                      "org.freedesktop.DBus / org.freedesktop.DBus.ListNames >names",
                  .talks = {kCheck + "bus bus"}};

// ---- A server with its clients --------------------------------------------------------------

bool can_run(const Server& server) {
  return std::ranges::none_of(server.programs, [](const std::string& program) {
    return skip_unless(installed(program), program + " is not installed");
  });
}

std::vector<Who> who_captures(const Server& server) {
  if (geteuid() != 0) return {{geteuid(), geteuid()}};
  return {{server.may_be_root ? 0 : kNobody, 0}, {kNobody, kNobody}};
}

Scene::Scene(const Server& server, uid_t user) : user_(user), port_(std::to_string(free_port())) {
  if (geteuid() == 0) REQUIRE(chown(directory_.path().c_str(), user, user) == 0);
  server_ = std::make_unique<Running>(shell(server.start));
  for (int i = 0; i < 3000 && !server_->exited(); ++i, usleep(20000)) {
    if (asks(server.ready).ok()) return;
  }
  FAIL(server.name << " does not serve: " << log());
}

namespace {

// In shell: so many clients have had their first answers.
std::string all_have_begun(size_t clients) {
  return fmt::format("[ $(ls begun.* 2>/dev/null | wc -l) -ge {} ]", clients);
}

}  // namespace

std::vector<Running> Scene::talks(const Words& scripts) {
  std::vector<Running> clients;
  for (const std::string& script : scripts) clients.push_back(shell(script));
  const std::string have_begun = all_have_begun(scripts.size());
  const auto is_over = [](const Running& client) { return client.exited(); };
  while (!asks(have_begun).ok() && std::ranges::none_of(clients, is_over)) usleep(50'000);
  return clients;
}

std::unique_ptr<Scene> Scene::in_one_tree(const Server& server, uid_t user) {
  std::unique_ptr<Scene> scene(new Scene(user));
  if (geteuid() == 0) REQUIRE(chown(scene->directory_.path().c_str(), user, user) == 0);
  std::string script = "exec 3<&0; (" + server.start + ") & server=$!\nuntil " + server.ready +
                       "; do kill -0 $server || exit 9; sleep 0.05; done\nclients=\n";
  for (const std::string& talk : server.talks)
    script += "(set -o pipefail; " + talk + ") & clients=\"$clients $!\"\n";
  script += fmt::format("until {}; do sleep 0.05; done\n", all_have_begun(server.talks.size()));
  script +=
      "echo begun; cat <&3; touch stop; failed=0\n"
      "for client in $clients; do wait $client || failed=1; done\n";
  if (!server.sums.empty()) script += server.sums + " || failed=1\n";
  script += "kill $server; wait $server; exit $failed";
  scene->server_ = std::make_unique<Running>(scene->shell(script, RunOptions::kPipe));
  scene->server_->wait_for_line("begun");
  return scene;
}

Running Scene::client(const std::string& script) {
  return shell("set -o pipefail; until [ -e stop ]; do " + script + " || exit 1; done");
}

void Scene::stop_clients() {
  write_file(directory_ / "stop", "");
}

void Scene::let_clients_ask() {
  std::filesystem::remove(directory_ / "stop");
}

Result Scene::end(Seconds patience) {
  if (!server_->exited()) kill(pid(), SIGTERM);
  return server_->wait(patience);
}

Scene::~Scene() {
  end(Seconds(10));
  // PostgreSQL notes there which segment of System V shared memory it has.
  std::ifstream file(directory_ / "data/postmaster.pid");
  std::string line;
  constexpr int kSegment = 7;  // "KEY ID"
  for (int i = 0; i < kSegment; ++i) std::getline(file, line);
  long key = 0;
  int id = -1;
  if (std::istringstream(line) >> key >> id) shmctl(id, IPC_RMID, nullptr);
}

Running Scene::shell(const std::string& script, RunOptions::Input input) const {
  const std::string directory = directory_.path();
  return Running({"bash", "-c", script},
                 {.input = input,
                  .directory = directory,
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

}  // namespace snapgdb::e2e
