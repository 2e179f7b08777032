// Trees in namespaces of their own, captured from outside and from inside.

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/e2e/harness.h"
#include "tests/e2e/json.h"
#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

namespace fs = std::filesystem;

// Its own user, pid, mount, network, IPC and UTS namespaces; any user may have them, where the
// administrator has nothing against it.
const Words kUnshare{"unshare",      "--user", "--map-root-user", "--pid", "--fork",
                     "--mount-proc", "--net",  "--ipc",           "--uts", "--kill-child"};

Words in_container(const Words& command) {
  Words words = kUnshare;
  words.insert(words.end(), command.begin(), command.end());
  return words;
}

bool no_containers(uid_t user) {
  return skip_unless(run(in_container({"true"}), {.user = user}).ok(),
                     fmt::format("user {} may not create namespaces", user));
}

// The users to try: this one, and an ordinary one if we can become that.
std::vector<uid_t> users() {
  return geteuid() == 0 ? std::vector<uid_t>{0, kNobody} : std::vector<uid_t>{geteuid()};
}

// A target as the first process of a container.
class Container {
 public:
  Container(const std::string& target, uid_t user, const Words& options = {})
      : unshare_(Target::at("/usr/bin/unshare", arguments(target, options), {.user = user})) {}

  pid_t outermost() const { return unshare_.pid(); }  // unshare itself, which is outside
  pid_t first() const { return children_of(unshare_.pid()).at(0); }

  std::string scratch() const { return unshare_.scratch(); }

  void check_ends_well() {
    const Result end = unshare_.finish();
    INFO(end);
    CHECK(end.ok());
  }

 private:
  static Words arguments(const std::string& target, const Words& options) {
    Words words =
        in_container({"sh", "-c", "ip link set lo up && exec \"$0\" \"$@\"", target_path(target)});
    words.insert(words.end(), options.begin(), options.end());
    return Words(words.begin() + 1, words.end());
  }
  Target unshare_;
};

void check_whole(const std::string& image) {
  const Result result = snapgdb({"verify", image});
  INFO(result);
  CHECK(result.ok());
}

Json tree_in(const std::string& image) {
  const Result result = snapgdb({"show", image, "tree", "--json"});
  INFO(result);
  REQUIRE(result.ok());
  return parse_json(result.out);
}

// "12 1" from the line "NSpid:	12	1".
std::string pids_in_namespaces(pid_t pid) {
  for (const std::string& line : lines_of(read_file(fmt::format("/proc/{}/status", pid)))) {
    if (!line.starts_with("NSpid:")) continue;
    std::istringstream words(line.substr(6));
    std::string pids;
    for (std::string word; words >> word;) pids += (pids.empty() ? "" : " ") + word;
    return pids;
  }
  return "";
}

std::string numbers_at(const Json& json, const std::string& path) {
  std::string numbers;
  for (const Json* number : elements_at(json, path)) {
    numbers += (numbers.empty() ? "" : " ") + json_at(*number, "");
  }
  return numbers;
}

void check_pids(const std::string& image, pid_t root) {
  const Json tree = tree_in(image);
  CHECK(json_at(tree, "snapshot.root_pid") == std::to_string(root));
  for (const Json* process : elements_at(tree, "processes")) {
    const pid_t pid = std::stoi(json_at(*process, "pid"));
    CAPTURE(pid);
    CHECK(numbers_at(*process, "ns_pids") == pids_in_namespaces(pid));
  }
}

TEST_CASE("a container is captured from outside, with the pids of outside and inside") {
  for (const uid_t user : users()) {
    if (no_containers(user)) continue;
    const TempDir directory;
    if (geteuid() == 0) REQUIRE(chown(directory.path().c_str(), user, user) == 0);
    for (const char* target : {"witness", "descriptors", "syscalls", "zombies"}) {
      CAPTURE(user, target);
      Container container(target, user);
      for (const pid_t root : {container.first(), container.outermost()}) {
        capture(root, directory / "image", {}, {.user = user});
        check_whole(directory / "image");
        check_pids(directory / "image", root);
      }
      container.check_ends_well();
    }
  }
}

TEST_CASE("a container of an ordinary user's is root's to capture, too, and not other users'") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  if (no_containers(kNobody)) return;
  const TempDir directory;
  chmod(directory.path().c_str(), 0777);
  Container container("witness", kNobody);
  capture(container.first(), directory / "image");
  check_pids(directory / "image", container.first());
  fs::remove(directory / "image");
  const std::string pid = std::to_string(container.first());
  check_refused(snapgdb({"capture", pid, "-o", directory / "image"}, {.user = kNobody - 1}), 1,
                {pid, fmt::format("belongs to user {}", kNobody)});
  CHECK(directory.names().empty());
  container.check_ends_well();
}

TEST_CASE("a container is captured from inside, by who enters it") {
  for (const uid_t user : users()) {
    if (no_containers(user)) continue;
    const TempDir directory;
    if (geteuid() == 0) REQUIRE(chown(directory.path().c_str(), user, user) == 0);
    Container container("witness", user);
    const Result result =
        run({"nsenter", "--target", std::to_string(container.first()), "--user", "--pid", "--mount",
             "--net", "--ipc", "--uts", "--preserve-credentials", program(), "capture", "1", "-o",
             directory / "image"},
            {.user = user});
    INFO(result);
    // Its root is none to the kernel when it comes to shared memory.
    CHECK((result.ok() || contains(result.err, "needs CAP_CHECKPOINT_RESTORE")));
    check_whole(directory / "image");
    CHECK(json_at(tree_in(directory / "image"), "processes.0.ns_pids.0") == "1");
    container.check_ends_well();
  }
}

// A target that a shell starts and captures as a child of its own; the shell ends as the target
// does.
std::string capture_a_sibling(const std::string& target) {
  return fmt::format(R"(
      set -e
      mkfifo input
      {0} <input >output & exec 3>input
      until grep -q ready output; do sleep 0.01; done
      for i in 1 2 3; do {1} capture $! -o image || [ $? = 3 ]; {1} verify image; done
      exec 3>&-
      wait $!)",
                     target_path(target), program());
}

// What /proc looks like where a capture has to work.
const char* const kProcs[] = {"", "ro", "hidepid=2", "hidepid=2,subset=pid,ro"};

TEST_CASE("a process of a container captures another one, whatever of /proc is shown there") {
  for (const uid_t user : users()) {
    if (no_containers(user)) continue;
    for (const std::string options : kProcs) {
      CAPTURE(user, options);
      const TempDir directory;
      if (geteuid() == 0) REQUIRE(chown(directory.path().c_str(), user, user) == 0);
      const RunOptions there{.directory = directory.path(), .user = user};
      const std::string mount =
          options.empty() ? "" : "mount -t proc -o " + options + " proc /proc && ";
      if (skip_unless(run(in_container({"bash", "-c", mount + "true"}), there).ok(),
                      "proc cannot be mounted with " + options)) {
        continue;
      }
      const Result result =
          run(in_container({"bash", "-c", mount + capture_a_sibling("witness")}), there);
      INFO(result);
      CHECK(result.ok());
    }
  }
}

// ---- A root file system of its own ----------------------------------------------------------

void must(bool done) {
  if (!done) _exit(125);
}

// Becomes a process to which there is only a file system in memory, with a copy of `program` as
// /program, $TMPDIR and /proc.
void move_to_own_root(const std::string& program, const std::string& root) {
  const std::string scratch = root + getenv("TMPDIR");
  must(unshare(CLONE_NEWNS) == 0 && mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
  must(mount("none", root.c_str(), "tmpfs", 0, nullptr) == 0);
  must(fs::copy_file(program, root + "/program") && fs::create_directories(scratch));
  must(fs::create_directory(root + "/proc") && chdir(root.c_str()) == 0);
  must(mount("proc", "proc", "proc", 0, nullptr) == 0);
  must(syscall(SYS_pivot_root, ".", ".") == 0 && umount2(".", MNT_DETACH) == 0);
  must(chdir("/") == 0);
}

TEST_CASE("an executable that only exists in another mount namespace is carried in the image") {
  if (skip_unless(geteuid() == 0, "to mount a root file system, one must be root")) return;
  const TempDir directory, root;
  const std::string program = target_path("witness-static");
  Target target =
      Target::at("/program", {}, {.before_exec = [&] { move_to_own_root(program, root.path()); }});
  capture(target.pid(), directory / "image");
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
  check_whole(directory / "image");
  const Result files = snapgdb({"show", directory / "image", "files"});
  INFO(files);
  CHECK(contains(files.out, "/program"));
  const Result stacks = snapgdb({"bt", directory / "image"});
  INFO(stacks);
  CHECK(contains(stacks.out, "target::wait_for_end"));
}

// ---- Again --------------------------------------------------------------------------------------

void check_container_again(const std::string& target, const Words& options, uid_t user,
                           pid_t (Container::*root)() const = &Container::first) {
  CAPTURE(target, user);
  const TempDir directory;
  fs::permissions(directory.path(), fs::perms::all);
  const Container container(target, user, options);
  std::ofstream(container.scratch() + "/restored").put('\n');
  const pid_t captured = (container.*root)();
  const std::vector<pid_t> pids = tree_of(captured);
  capture(captured, directory / "image", {"--kill", "--all-memory"}, {.user = user});
  for (const pid_t pid : pids) await_end(pid);
  for (const Words& how : {Words{"--isolated"}, Words{}}) {
    const Result end = run_again(directory / "image", how, {.user = user});
    INFO(end);
    CHECK(end.ok());
    CHECK_FALSE(contains(end.err, "instead of"));
  }
}

TEST_CASE("a container comes back, and its first process is number 1 again") {
  for (const uid_t user : users()) {
    if (no_containers(user)) continue;
    check_container_again("zombies", {"--without-stopped"}, user);
    check_container_again("tangle", {}, user);
    check_container_again("spaces", {"--numbers"}, user);
    check_container_again("soak", {"--seed", "4", "--only", "pipe,file,memfd,eventfd"}, user);
  }
}

// Whoever is root there writes below directories of users that are unknown to it.
TEST_CASE("inside a user namespace, what is written below others' directories is the sandbox's") {
  for (const uid_t user : users()) {
    if (no_containers(user)) continue;
    const TempDir directory;
    fs::permissions(directory.path(), fs::perms::all);
    const Result inside = run({"unshare", "-Ur", "sh", "-c", R"(
python3 -c 'import os, sys, time
out, ready = open("out", "w"), open("ready", "w")
while not os.path.exists("go"): time.sleep(0.01)
print("written", file=out, flush=True)
sys.exit(7)' </dev/null >/dev/null 2>&1 &
while [ ! -e ready ]; do sleep 0.1; done
"$0" capture $! --kill --all-memory -o image || exit 1
touch go
"$0" restore --isolated --scratch scratch image </dev/null
echo "status $?"
cat out; find scratch -name out -exec cat {} +)",
                               program()},
                              {.directory = directory.path(), .user = user});
    INFO(inside);
    CHECK(inside.ok());
    CHECK(inside.out == "image\nstatus 7\nwritten\n");
  }
}

TEST_CASE("so does a container with the program outside that has made it") {
  for (const uid_t user : users()) {
    if (no_containers(user)) continue;
    check_container_again("zombies", {"--without-stopped", "--without-session"}, user,
                          &Container::outermost);
    check_container_again("soak", {"--seed", "4", "--only", "pipe,file,memfd,eventfd"}, user,
                          &Container::outermost);
  }
}

}  // namespace
}  // namespace snapgdb::e2e
