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

#include "tests/servers/scene.h"

namespace snapgdb::e2e {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
namespace fs = std::filesystem;

constexpr milliseconds kInterval{100};
// $SNAPGDB_LOAD seconds of it, for whoever hunts something rare.
const Seconds kLoad{getenv("SNAPGDB_LOAD") ? atoi(getenv("SNAPGDB_LOAD")) : 5};

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
  if (!can_run(server)) return;
  for (const Who who : who_captures(server)) check_undisturbed(server, who);
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
