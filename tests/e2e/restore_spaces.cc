// snapgdb restore: namespaces of the tree's own, and what is in them.

#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <functional>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

constexpr std::optional<uid_t> kRoot = {};
const std::vector<Words> kBothWays{{}, {"--isolated"}};

bool cannot_become(std::optional<uid_t> user) {
  return user && skip_unless(geteuid() == 0, "to become an ordinary user, one must be root");
}
bool is_not_root() {
  return skip_unless(geteuid() == 0, "only root may do that");
}

// The program checks itself at its end: when it was captured, and after each way of restoring it.
void check_comes_back(const Words& arguments, std::optional<uid_t> user,
                      const std::vector<Words>& ways = kBothWays,
                      const std::string& name = "spaces") {
  const TempDir directory;
  std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  const std::string programs = std::filesystem::path(target_path("spaces")).parent_path();
  Target target(name, arguments, {.environment = {{"SPACES_PROGRAMS", programs}}, .user = user});
  std::filesystem::permissions(target.scratch(), std::filesystem::perms::all);
  take_away(target.running(), directory / "image", {.user = user});
  for (const Words& way : ways) {
    CAPTURE(way);
    const Result end = run_again(directory / "image", way, {.user = user});
    INFO(end);
    CHECK(end.ok());
    CHECK_FALSE(contains(end.err, "the tree had"));
  }
}

TEST_CASE("users and groups are called in a user namespace what they were called there") {
  if (is_not_root()) return;
  check_comes_back({"--user", "0 0 4294967295"}, kRoot);
  check_comes_back({"--user", "0 1000 1,1 100000 65536", "--groups", "0 1000 1,1 200000 65536"},
                   kRoot);
  check_comes_back({"--user", "70000 70000 10,5 0 1", "--groups", "7 70000 2"}, kRoot);
}

TEST_CASE("an ordinary user is called in a user namespace what they were called there") {
  if (cannot_become(kNobody)) return;
  const std::string number = std::to_string(kNobody);
  for (const std::string inside : {"0", "1000", number.c_str()})
    check_comes_back({"--user", inside + " " + number + " 1"}, kNobody);
}

TEST_CASE("a tree keeps the names of its host, and the days that its clocks were ahead") {
  if (is_not_root()) return;
  check_comes_back({"--uts"}, kRoot);
  check_comes_back({"--time"}, kRoot);
  check_comes_back({"--user", "0 1000 2", "--uts"}, kRoot);
}

TEST_CASE("an ordinary user's tree keeps the names of its host, and its clocks") {
  if (cannot_become(kNobody)) return;
  check_comes_back({"--user", fmt::format("0 {} 1", kNobody), "--uts", "--time"}, kNobody);
}

TEST_CASE("processes come back in namespaces that the first one is not in") {
  if (is_not_root()) return;
  check_comes_back({"--root", "--keep"}, kRoot, {{}, {"--isolated"}, {"--lazy"}}, "below");
}

TEST_CASE("so do an ordinary user's, who made namespaces for some of them") {
  if (cannot_become(kNobody)) return;
  check_comes_back({}, kNobody, kBothWays, "below");
}

TEST_CASE("file systems in memory come back with all that was in them, mounted as they were") {
  if (is_not_root()) return;
  check_comes_back({"--mounts"}, kRoot);
  check_comes_back({"--mounts", "--devices"}, kRoot, {{}});
  check_comes_back({"--pivot"}, kRoot);
  check_comes_back({"--user", "0 0 4294967295", "--mounts"}, kRoot);
}

TEST_CASE("so do an ordinary user's, also in a root directory of their own") {
  if (cannot_become(kNobody)) return;
  const std::string user = fmt::format("0 {} 1", kNobody);
  check_comes_back({"--user", user, "--mounts"}, kNobody);
  check_comes_back({"--user", user, "--pivot"}, kNobody);
}

// A script that `first` runs, which has said "ready" and waits for a line: taken away, and run
// again.
void check_script(Words first, const std::string& script, const std::vector<Words>& ways,
                  RunOptions options, const std::function<void(const Result&)>& check) {
  const TempDir image;
  std::filesystem::permissions(image.path(), std::filesystem::perms::all);
  first.insert(first.end(), {"sh", "-c", script});
  options.input = RunOptions::kPipe;
  Running running(first, options);
  running.wait_for_line("ready");
  take_away(running, image / "image", {.user = options.user});
  for (const Words& way : ways) {
    CAPTURE(way);
    const Result end = run_again(image / "image", way, {.user = options.user}, "line\n");
    INFO(end);
    check(end);
  }
}

// Both stand in a new file system, and have the names there that they have below.
constexpr const char* kSameNames = R"(
mount --make-rprivate /
mkdir home home/user stage dev; echo text >home/user/file
mount --bind home/user stage; mount -t tmpfs none home; mkdir home/user; mount --move stage home/user
mount -t tmpfs none dev; touch dev/zero; mount --bind /dev/zero dev/zero; mount --move dev /dev
echo ready; read line
cat home/user/file; head -c 3 /dev/zero | wc -c; echo written >home/user/new
)";

TEST_CASE("what was mounted on a file system that hides it is mounted there again") {
  if (is_not_root()) return;
  const TempDir directory;
  const auto is_written = [&] { return std::filesystem::exists(directory / "home/user/new"); };
  const auto check = [](const Result& end) { CHECK(end.out == "text\n3\n"); };
  check_script({"unshare", "-m"}, kSameNames, {{"--isolated"}}, {.directory = directory.path()},
               check);
  CHECK_FALSE(is_written());
  std::filesystem::remove_all(directory / "home");
  for (const char* name : {"stage", "dev"}) std::filesystem::remove(directory / name);
  check_script({"unshare", "-m"}, kSameNames, {{}}, {.directory = directory.path()}, check);
  CHECK(is_written());
}

// The inner shell sees a part of a file system in memory that it has unmounted otherwise.
constexpr const char* kPartBelow = R"(
exec 3<&0  # jobs have none of their own
mount --make-rprivate /
mkdir all; mount -t tmpfs whole all; mkdir all/part; echo seen >all/part/text; mkdir shown
unshare -m sh -c 'mount --bind all/part shown; umount all; echo ready; read line; cat shown/text' <&3 &
wait $! && cat all/part/text
)";

void check_part_below(const Words& first, std::optional<uid_t> user) {
  const TempDir directory;
  std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  check_script(first, kPartBelow, kBothWays, {.directory = directory.path(), .user = user},
               [](const Result& end) { CHECK(end.out == "seen\nseen\n"); });
}

TEST_CASE("mounts of a namespace below may show what only those above it hold") {
  if (is_not_root()) return;
  check_part_below({"unshare", "-m"}, kRoot);
}

TEST_CASE("so may those of an ordinary user, who is root there") {
  if (cannot_become(kNobody)) return;
  check_part_below({"unshare", "-Urm"}, kNobody);
}

// What one of two namespaces mounts where both are peers, the other one sees.
constexpr const char* kPeers = R"(
exec 3<&0  # jobs have none of their own
mkdir all; mount -t tmpfs all all; mount --make-shared all; mkdir all/late
unshare -m --propagation unchanged sh -c '
  echo ready; read line; mount -t tmpfs late all/late; echo seen >all/late/text' <&3 &
wait $! && cat all/late/text && umount all/late && ls all/late
)";

TEST_CASE("mounts of two namespaces are peers as they were") {
  if (is_not_root()) return;
  const TempDir directory;
  check_script({"unshare", "-m"}, kPeers, kBothWays, {.directory = directory.path()},
               [](const Result& end) {
                 CHECK(end.out == "seen\n");
                 CHECK_FALSE(contains(end.err, "does not spread"));
               });
}

TEST_CASE("settings of the kernel cannot be changed in the /proc of an isolated tree") {
  if (is_not_root()) return;
  check_script({"unshare", "-pf", "--mount-proc"},
               "echo ready; read line\n"
               "name=$(cat /proc/sys/kernel/core_pattern)\n"
               "echo \"$name\" >/proc/sys/kernel/core_pattern && echo changed\n"
               "echo $$",
               {{"--isolated"}}, {}, [](const Result& end) {
                 CHECK(end.out == "1\n");
                 CHECK(contains(end.err, "core_pattern"));
               });
}

TEST_CASE("a network comes back: links, addresses, routes, rules, settings, filters, connections") {
  if (is_not_root()) return;
  check_comes_back({"--net"}, kRoot);
  check_comes_back({"--user", "0 0 4294967295", "--net", "--uts", "--mounts"}, kRoot);
}

TEST_CASE("so does an ordinary user's: links, addresses, routes, rules, settings") {
  if (cannot_become(kNobody)) return;
  check_comes_back({"--user", fmt::format("0 {} 1", kNobody), "--net"}, kNobody);
}

// ---- Real ones ----------------------------------------------------------------------------------

constexpr const char* kReach = R"(
import errno, socket
caller = socket.socket(); caller.settimeout(5)
print("reached:", caller.connect_ex(("10.9.0.1", 1)) == errno.ECONNREFUSED)
)";

// In a network namespace of the test's own, so that the machine's is left alone. `start` begins a
// tree one of whose processes, `inside.sh`, is in a network of its own.
void check_connected_to_bridge(const std::string& start) {
  CAPTURE(start);
  const TempDir directory;
  write_file(directory / "reach.py", kReach);
  write_file(directory / "inside.sh",
             "echo $$ >inside; echo ready; read line; ip -o -4 addr show dev inside\n"
             "python3 reach.py\n");
  const Result result = run({"unshare", "-n", "bash", "-ec",
                             fmt::format(R"(
      ip link set lo up
      ip link add bridge0 type bridge; ip addr add 10.9.0.1/24 dev bridge0; ip link set bridge0 up
      mkfifo input
      {1} <input >output 2>&1 & exec 3>input
      until grep -q ready output; do sleep 0.01; done
      ip link add outside type veth peer name inside netns $(cat inside)
      ip link set outside master bridge0 up
      nsenter -t $(cat inside) -n sh -c 'ip addr add 10.9.0.2/24 dev inside; ip link set inside up'
      {0} capture $! --kill --all-memory -o image
      wait $! || true
      ! ip link show outside 2>/dev/null
      : >output; echo line | {0} restore image || true
      cat output
      )",
                                         program(), start)},
                            {.directory = directory.path()});
  INFO(result);
  CHECK(result.ok());
  CHECK(contains(result.out, "inet 10.9.0.2/24"));
  CHECK(contains(result.out, "reached: True"));
}

TEST_CASE("a pair of links whose other end was in a bridge outside is connected again") {
  if (is_not_root()) return;
  check_connected_to_bridge("unshare -n sh inside.sh");
}

TEST_CASE("so is that of a network below, whose other end is where the first process is") {
  if (is_not_root()) return;
  check_connected_to_bridge("sh -c 'exec 4<&0; unshare -n sh inside.sh <&4 & wait $!'");
}

constexpr const char* kServer = R"(
import socket, threading
def echo(caller):
    for line in caller.makefile():
        caller.sendall(("echo " + line).encode())
listener = socket.create_server(("10.8.0.1", 4711))
open("listening", "w").close()
while True:
    threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
)";
constexpr const char* kClient = R"(
import os, socket, sys, time
while not os.path.exists("listening"):
    time.sleep(0.01)
def call():
    return socket.create_connection(("10.8.0.1", 4711), 5)
def check(caller, line):
    caller.sendall(line.encode())
    assert caller.makefile().readline() == "echo " + line
first = call()
check(first, "before\n")
print("ready", flush=True)
sys.stdin.readline()
check(first, "through what was there\n")
check(call(), "through what is new\n")
print("both went through", flush=True)
)";
// A pair of links between two networks, that of `client` and that of `server`.
constexpr const char* kJoined = R"(
PATH=$PATH:/sbin:/usr/sbin
exec 3<&0  # jobs have none of their own
join='until ip link show $0 >/dev/null 2>&1; do sleep 0.01; done
  ip addr add $1/24 dev $0; ip link set $0 up; exec python3 $2'
$SERVER sh -c "$join" left 10.8.0.1 server.py & server=$!
unshare -n sh -c "$join" right 10.8.0.2 client.py <&3 & client=$!
for pid in $client ${SERVER:+$server}; do
  until [ $(readlink /proc/$pid/ns/net) != $(readlink /proc/self/ns/net) ]; do sleep 0.01; done
done
ip link add name left netns $server type veth peer name right netns $client
wait $client
end=$?
kill $server
exit $end
)";

// `server`: what makes the server's network, another one than that of the first process.
void check_joined(const Words& first, const std::string& server, std::optional<uid_t> user) {
  CAPTURE(server, user.has_value());
  const TempDir directory;
  std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  write_file(directory / "server.py", kServer);
  write_file(directory / "client.py", kClient);
  check_script(first, kJoined, kBothWays,
               {.directory = directory.path(), .environment = {{"SERVER", server}}, .user = user},
               [](const Result& end) {
                 CHECK(end.ok());
                 CHECK(contains(end.out, "both went through"));
                 CHECK_FALSE(contains(end.err, "other end"));
               });
}

TEST_CASE("a pair of links between two networks of the tree joins them again") {
  if (is_not_root()) return;
  check_joined({"unshare", "-n"}, "", kRoot);
  check_joined({"unshare", "-n"}, "unshare -n", kRoot);
  check_joined({"env"}, "unshare -n", kRoot);
}

TEST_CASE("so does an ordinary user's, who is root there") {
  if (cannot_become(kNobody)) return;
  check_joined({"unshare", "-Urn"}, "", kNobody);
  check_joined({"unshare", "-Urn"}, "unshare -n", kNobody);
}

// A shell in a sandbox says what it sees, and once more when it is told to.
enum class Captured { kInside, kWithItsMaker };
void check_sandboxed_shell(const Words& sandbox, uid_t user, Captured what) {
  CAPTURE(user, what == Captured::kInside);
  const TempDir directory;
  std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  const std::string look =
      "look() { id -u; hostname; ls /; cat /tmp/note; echo $$; "
      "cat /proc/1/comm; head -c 3 /dev/zero | wc -c; }; echo kept >/tmp/note; look >/tmp/before; "
      "cat /tmp/before; echo "
      "ready; "
      "read line; look >/tmp/after; cmp /tmp/before /tmp/after";
  Words command = sandbox;
  for (const std::string& word : {std::string("sh"), std::string("-c"), look})
    command.push_back(word);
  Running running(command, {.input = RunOptions::kPipe, .user = user});
  running.wait_for_line("ready");
  const std::vector<pid_t> tree = tree_of(running.pid());
  // The first process inside: those before it are of the sandbox's maker.
  pid_t first = running.pid();
  const auto own = [](pid_t pid) {
    return std::filesystem::read_symlink(fmt::format("/proc/{}/ns/pid", pid)).string();
  };
  const std::string ours = own(getpid());
  for (const pid_t pid : tree)
    if (what == Captured::kInside && own(pid) != ours) {
      first = pid;
      break;
    }
  capture(first, directory / "image", {"--kill", "--all-memory"}, {.user = user});
  running.wait();
  for (const pid_t pid : tree) await_end(pid);
  for (const Words& way : {Words{}, Words{"--isolated"}}) {
    CAPTURE(way);
    const Result end = run_again(directory / "image", way, {.user = user}, "line\n");
    INFO(end);
    CHECK(end.ok());
  }
}

const Words kBubblewrap{"bwrap",      "--ro-bind", "/usr",      "/usr",    "--symlink",
                        "usr/bin",    "/bin",      "--symlink", "usr/lib", "/lib",
                        "--symlink",  "usr/lib64", "/lib64",    "--proc",  "/proc",
                        "--dev",      "/dev",      "--tmpfs",   "/tmp",    "--unshare-all",
                        "--hostname", "sandboxed", "--as-pid-1"};
// What is bound in /dev has the names that the /dev below had.
const Words kOursInBubblewrap{"bwrap",         "--ro-bind",  "/",         "/",         "--proc",
                              "/proc",         "--dev",      "/dev",      "--tmpfs",   "/tmp",
                              "--unshare-all", "--hostname", "sandboxed", "--as-pid-1"};

void check_bubblewrap(Captured what) {
  for (const uid_t user : {uid_t{0}, kNobody}) {
    if (cannot_become(user)) return;
    Words trial = kBubblewrap;
    trial.push_back("true");
    if (skip_unless(run(trial, {.user = user}).ok(), "bubblewrap does not work here")) return;
    for (const Words& sandbox : {kBubblewrap, kOursInBubblewrap})
      check_sandboxed_shell(sandbox, user, what);
  }
}

TEST_CASE("a bubblewrap sandbox comes back, an ordinary user's and root's") {
  check_bubblewrap(Captured::kInside);
}

TEST_CASE("so does one with bubblewrap itself, which is outside") {
  check_bubblewrap(Captured::kWithItsMaker);
}

// Its child has set its own clocks ahead after it had a child, which has not.
constexpr const char* kClocks = R"(
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
told, telling = os.pipe()
end, ending = os.pipe()
def clocks(pid): return os.stat(f"/proc/{pid}/ns/time").st_ino
child = os.fork()
if child == 0:
    os.close(ending)
    if os.fork() == 0:
        os.read(end, 1)
        os._exit(0)
    if libc.unshare(0x80) != 0: os._exit(1)  # CLONE_NEWTIME
    with open("/proc/self/timens_offsets", "w") as offsets: offsets.write("monotonic 1000000 0")
    space = os.open("/proc/self/ns/time_for_children", os.O_RDONLY)
    if libc.setns(space, 0x80) != 0: os._exit(1)
    os.close(space)
    os.write(telling, b"x")
    os.read(end, 1)
    os._exit(0 if time.clock_gettime(time.CLOCK_MONOTONIC) > 1000000 else 2)
os.read(told, 1)
grandchild = int(open(f"/proc/{child}/task/{child}/children").read())
print("ready", flush=True)
os.read(0, 1)
own, ahead, left = clocks(os.getpid()), clocks(child), clocks(grandchild)
os.close(ending)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if own == left != ahead else 3)
)";

TEST_CASE("who was born before its parent set its clocks ahead has those of the tree") {
  if (skip_unless(geteuid() == 0, "needs root")) return;
  const TempDir directory;
  Running clocks({"python3", "-c", kClocks}, {.input = RunOptions::kPipe});
  clocks.wait_for_line("ready");
  take_away(clocks, directory / "image");
  const Result end = run_again(directory / "image");
  INFO(end);
  CHECK(end.ok());
}

// As `unshare --mount --pid --fork` makes it: the first process's /proc is its own, and that of the
// mount namespace below tells nothing of who makes it again.
TEST_CASE("a container with its own /proc, and a mount namespace below, comes back") {
  if (skip_unless(geteuid() == 0, "namespaces without one of users take root")) return;
  TakenPython program(
      "assert libc.unshare(0x20020000) == 0\n"  // of pids, of mounts
      "inside = os.fork()\n"
      "if inside: sys.exit(os.waitstatus_to_exitcode(os.waitpid(inside, 0)[1]))\n"
      "assert libc.mount(b'none', b'/', None, 0x44000, None) == 0\n"  // MS_REC | MS_PRIVATE
      "assert libc.mount(b'proc', b'/proc', b'proc', 0, None) == 0\n"
      "child = os.fork()\n"
      "if child == 0:\n"
      "  assert libc.unshare(0x20000) == 0\n"
      "  assert libc.mount(b'none', b'/mnt', b'tmpfs', 0, None) == 0\n"
      "  open('/mnt/file', 'w').write('x'); open('/mnt/told', 'w').close()\n"
      "  while True: signal.pause()\n"
      "while not os.path.exists(f'/proc/{child}/root/mnt/told'): time.sleep(0.01)",
      "assert open(f'/proc/{child}/root/mnt/file').read() == 'x'\n"
      "assert not os.path.exists('/mnt/file')\n"
      "os.kill(child, 9); os.waitpid(child, 0)");
  program.take();
  program.check_runs_again();
}

}  // namespace
}  // namespace snapgdb::e2e
