// snapgdb restore: the program of each resource where trees live: among others, as process 1 of
// namespaces of its own, and with the program outside that made those.

#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

// That run wherever they are started.
const Words kPrograms{"pipes",         "timers",   "notifications", "leftovers",
                      "circumstances", "nameless", "sharers",       "zombies"};
// As root of a network of its own with a loopback device, also these.
const Words kOfRoot{"inet_sockets", "rare_sockets", "system_v"};

// Without what is not there in memory (leases), or told to parents by restores (stops).
const std::map<std::string, std::string> kOptions{{"circumstances", "--no-leases"},
                                                  {"zombies", "--without-stopped"}};

// Waits for the program, beside others; its standard input is theirs, too.
constexpr const char* kParent = R"(
import subprocess, sys
program, other = subprocess.Popen(sys.argv[1:]), subprocess.Popen(["sleep", "1000"])
status = program.wait()
other.kill(), other.wait()
sys.exit(status)
)";

const Words kNamespaces{"--mount",  "--net",  "--pid",  "--ipc",        "--uts",
                        "--cgroup", "--time", "--fork", "--mount-proc", "--kill-child"};
constexpr const char* kWithLoopback = R"(ip link set lo up && exec "$@")";

struct Setting {
  Words before;             // what starts the program
  bool from_inside = true;  // whether what starts it stays outside of the tree
  std::optional<uid_t> user = {};
};

Setting among_others() {
  return {{"python3", "-c", kParent}, false};
}
Setting in_namespaces(bool from_inside, std::optional<uid_t> user = {}) {
  Words words{"unshare"};
  if (user || geteuid() != 0) words.push_back("--map-root-user");
  words.insert(words.end(), kNamespaces.begin(), kNamespaces.end());
  for (const char* word : {"sh", "-c", kWithLoopback, "sh"}) words.emplace_back(word);
  return {words, from_inside, user};
}

void check(const Setting& setting, const std::string& name, const Words& options) {
  CAPTURE(name, options);
  const TempDir directory;
  // Nobody else takes its ports, and connections that have ended (TIME-WAIT) are not in the way.
  const bool is_alone = !setting.from_inside && geteuid() == 0;
  std::optional<OwnNetwork> network;
  if (is_alone) network.emplace();
  if (setting.user) std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Words words(setting.before.begin() + 1, setting.before.end());
  words.push_back(target_path(name));
  if (const auto option = kOptions.find(name); option != kOptions.end())
    words.push_back(option->second);
  Target target = Target::at(setting.before.front(), words, {.user = setting.user});
  std::ofstream(target.scratch() + "/restored").put('\n');
  const pid_t first = setting.from_inside ? children_of(target.pid()).at(0) : target.pid();
  const std::vector<pid_t> pids = tree_of(target.pid());
  capture(first, directory / "image", {"--kill", "--all-memory"}, {.user = setting.user});
  target.running().wait();
  for (const pid_t pid : pids) await_end(pid);
  network.reset();
  if (is_alone) network.emplace();
  const Result end = run_again(directory / "image", options, {.user = setting.user});
  INFO(end);
  CHECK(end.ok());
}

void check_all(const Setting& setting, const Words& options = {}) {
  for (const std::string& name : kPrograms) check(setting, name, options);
  if (geteuid() != 0 || setting.user) return;
  for (const std::string& name : kOfRoot) check(setting, name, options);
}

bool can_make_namespaces(std::optional<uid_t> user = {}) {
  Words words = in_namespaces(true, user).before;
  words.emplace_back("true");
  return run(words, {.user = user}).ok();
}

TEST_CASE("the program of each resource is restored in a tree with others") {
  check_all(among_others());
}
TEST_CASE("the program of each resource is restored in isolation, in a tree with others") {
  check_all(among_others(), {"--isolated"});
}
TEST_CASE("the program of each resource is restored as process 1 of namespaces of its own") {
  if (skip_unless(can_make_namespaces(), "namespaces cannot be made here")) return;
  check_all(in_namespaces(true));
}
TEST_CASE("the program of each resource is restored in isolation, as process 1 of its own") {
  if (skip_unless(can_make_namespaces(), "namespaces cannot be made here")) return;
  check_all(in_namespaces(true), {"--isolated"});
}
TEST_CASE("the program of each resource is restored with the program that made its namespaces") {
  if (skip_unless(can_make_namespaces(), "namespaces cannot be made here")) return;
  check_all(in_namespaces(false));
}
TEST_CASE("an ordinary user's program of each resource is restored in namespaces of its own") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  if (skip_unless(can_make_namespaces(kNobody), "namespaces cannot be made here")) return;
  check_all(in_namespaces(true, kNobody));
}

// The first process of a job has ended; the other says by its status whether it is still in it.
constexpr const char* kJob = R"(
import os, sys
told, telling = os.pipe()
leader = os.fork()
if leader == 0:
    os.setpgid(0, 0)
    group = os.getpid()
    if os.fork() == 0:
        os.write(telling, b"x")
        sys.stdin.read()
        os._exit(0 if os.getpgid(0) == group else 7)
    os._exit(0)
os.waitpid(leader, 0)
os.read(told, 1)
print("ready", flush=True)
os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
)";

TEST_CASE("a job in a pid namespace below is the same though its first process has ended") {
  if (skip_unless(geteuid() == 0 || can_make_namespaces(), "namespaces cannot be made here"))
    return;
  const TempDir directory;
  Running job({"unshare", geteuid() == 0 ? "-pf" : "-Urpf", "python3", "-c", kJob},
              {.input = RunOptions::kPipe});
  job.wait_for_line("ready");
  take_away(job, directory / "image");
  const Result end = run_again(directory / "image");
  INFO(end);
  CHECK(end.ok());
}

}  // namespace
}  // namespace snapgdb::e2e
