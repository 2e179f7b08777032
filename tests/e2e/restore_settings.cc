// snapgdb restore: the program of each resource where trees live: among others, as process 1 of
// namespaces of its own, and with the program outside that made those; in isolation, and plainly.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>

#include "tests/e2e/moment.h"
#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

constexpr const char *kUsersAlone = "an ordinary user's, alone",
                     *kUsersNamespaces = "an ordinary user's, in namespaces of its own",
                     *kWithMaker = "with who made its namespaces", *kUnderGdb = "under gdb";

// What checks itself at its end. Where not: settings in which it has not what it needs.
struct Program {
  std::string name;
  Words options = {};
  bool needs_root = false;
  bool lacks_something = false;  // which a capture says
  Words not_there = {};
};

const Program kPrograms[] = {
    {"pipes"},
    {"timers"},
    {.name = "notifications", .lacks_something = true},  // events that nobody has read
    {"leftovers"},
    {"circumstances", {"--no-leases"}},  // which there are none of in memory
    {"nameless"},
    {"sharers"},
    {"zombies", {"--without-stopped"}},  // of whom their parents are told once more
    {.name = "message_queues", .not_there = {kUsersAlone}},  // one that even its owner may not open
    {"terminals", {"--queues"}},
    {"kinds", {"--no-userfaultfd"}},
    {.name = "witness", .not_there = {kUnderGdb}},  // its memory comes later, which smaps shows
    // Who made those of a pid namespace below has no number (said); it wants to be several users.
    {.name = "unix_sockets", .lacks_something = true, .not_there = {kWithMaker, kUsersNamespaces}},
    {.name = "inet_sockets", .needs_root = true},
    {.name = "rare_sockets", .needs_root = true},
    {.name = "system_v", .needs_root = true},
    {.name = "restricted", .needs_root = true, .lacks_something = true},
};

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

// Runs what follows in a user namespace with all users.
constexpr const char* kUserNamespace = R"(
import ctypes, os, sys
there, is_there = os.pipe()
mapped, is_mapped = os.pipe()
child = os.fork()
if child == 0:
    if ctypes.CDLL(None).unshare(0x10000000) != 0: os._exit(99)
    os.write(is_there, b"x")
    os.read(mapped, 1)
    os.execvp(sys.argv[1], sys.argv[1:])
os.read(there, 1)
for kind in "uid_map", "gid_map":
    with open(f"/proc/{child}/{kind}", "w") as ranges: ranges.write("0 0 65536")
os.write(is_mapped, b"x")
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
)";

struct Setting {
  std::string name;
  Words before;     // what starts the program
  int outside = 0;  // how many processes of that stay outside of the tree
  std::optional<uid_t> user = {};
  bool is_debugged = false;
};

Setting under_gdb() {
  return {.name = kUnderGdb, .before = {}, .is_debugged = true};
}
Setting alone(std::optional<uid_t> user = {}) {
  return {user ? kUsersAlone : "alone", {}, 0, user};
}
Setting among_others() {
  return {"among others", {"python3", "-c", kParent}};
}
Setting in_namespaces(int outside, std::optional<uid_t> user = {}) {
  Words words{"unshare"};
  if (user || geteuid() != 0) words.push_back("--map-root-user");
  words.insert(words.end(), kNamespaces.begin(), kNamespaces.end());
  for (const char* word : {"sh", "-c", kWithLoopback, "sh"}) words.emplace_back(word);
  const char* name = user ? kUsersNamespaces : outside ? "process 1 of its own" : kWithMaker;
  return {name, words, outside, user};
}
Setting in_user_namespace() {
  Words words{"python3", "-c", kUserNamespace};
  const Words inner = in_namespaces(1).before;
  words.insert(words.end(), inner.begin(), inner.end());
  return {"process 1 of its own, with users of its own", words, 2};
}

Words command_in(const Setting& setting, const Program& program) {
  Words words = setting.before;
  words.push_back(target_path(program.name));
  words.insert(words.end(), program.options.begin(), program.options.end());
  return words;
}

void check_runs_under_gdb(const std::string& image, const std::string& socket) {
  Running server(
      {program(), "serve", image, "--program-streams", "--once", "--listen", "unix:" + socket});
  await_listening(server);
  const Result said =
      gdb({"target remote " + socket, "handle all nostop noprint pass", "continue"});
  const Result end = server.wait();
  INFO(said << end);
  CHECK(contains(said.out, "exited normally"));
}

void check(const Setting& setting, const Program& program) {
  CAPTURE(setting.name, program.name);
  const TempDir directory;
  // Nobody else takes its ports, and connections that have ended (TIME-WAIT) are not in the way.
  const bool is_alone = setting.outside == 0 && geteuid() == 0;
  std::optional<OwnNetwork> network;
  if (is_alone) network.emplace();
  if (setting.user) std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Words words = command_in(setting, program);
  const std::string command = words.front();
  words.erase(words.begin());
  Target target = Target::at(command, words, {.user = setting.user});
  std::ofstream(target.scratch() + "/restored").put('\n');
  pid_t first = target.pid();
  for (int i = 0; i < setting.outside; ++i) first = children_of(first).at(0);
  const std::vector<pid_t> pids = tree_of(target.pid());
  const Result captured = snapgdb(
      {"capture", std::to_string(first), "-o", directory / "image", "--kill", "--all-memory"},
      {.user = setting.user});
  INFO(captured);
  CHECK((captured.ok() || (captured.status == 3 && program.lacks_something)));
  target.running().wait();
  for (const pid_t pid : pids) await_end(pid);
  if (setting.is_debugged) return check_runs_under_gdb(directory / "image", directory / "socket");
  // Isolated first: that leaves everything outside as it was, for the other to find and clear away.
  for (const Words& options : {Words{"--isolated"}, Words{}}) {
    network.reset();
    if (is_alone) network.emplace();
    const Result end = run_in_its_terminals(directory / "image", options, {.user = setting.user});
    INFO(end);
    CHECK(end.ok());
  }
}

// SNAPGDB_ROUNDS: how often.
int rounds() {
  const char* text = std::getenv("SNAPGDB_ROUNDS");
  return text ? std::atoi(text) : 1;
}

void check_all(const Setting& setting) {
  const bool has_root = geteuid() == 0 && !setting.user;
  for (int round = 0; round < rounds(); ++round)
    for (const Program& program : kPrograms)
      if ((has_root || !program.needs_root) && !std::ranges::count(program.not_there, setting.name))
        check(setting, program);
}

bool can_make_namespaces(std::optional<uid_t> user = {}) {
  Words words = in_namespaces(1, user).before;
  words.emplace_back("true");
  return run(words, {.user = user}).ok();
}

TEST_CASE("the program of each resource is restored alone") {
  check_all(alone());
}
TEST_CASE("the program of each resource runs under gdb as it does by itself") {
  check_all(under_gdb());
}
TEST_CASE("the program of each resource is restored in a tree with others") {
  check_all(among_others());
}
TEST_CASE("the program of each resource is restored as process 1 of namespaces of its own") {
  if (skip_unless(can_make_namespaces(), "namespaces cannot be made here")) return;
  check_all(in_namespaces(1));
}
TEST_CASE("the program of each resource is restored in a user namespace with all users") {
  if (skip_unless(geteuid() == 0, "only root may give all users")) return;
  check_all(in_user_namespace());
}
TEST_CASE("the program of each resource is restored with the program that made its namespaces") {
  if (skip_unless(can_make_namespaces(), "namespaces cannot be made here")) return;
  check_all(in_namespaces(0));
}
TEST_CASE("an ordinary user's program of each resource is restored") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  check_all(alone(kNobody));
}
TEST_CASE("an ordinary user's program of each resource is restored in namespaces of its own") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  if (skip_unless(can_make_namespaces(kNobody), "namespaces cannot be made here")) return;
  check_all(in_namespaces(1, kNobody));
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
