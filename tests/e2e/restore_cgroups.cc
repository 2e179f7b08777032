// snapgdb restore: control groups.

#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <ranges>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

constexpr const char* kOnlyRoot = "only root makes cgroups";

struct Groups {
  explicit Groups(const Target& target) : directories(target.said("cgroup")) {}
  Groups(const Groups&) = delete;
  Groups& operator=(const Groups&) = delete;
  ~Groups() { remove(); }

  // Inner ones were made after those that they are in.
  void remove() const {
    for (const std::string& directory : directories | std::views::reverse) rmdir(directory.c_str());
  }
  size_t count() const {
    return static_cast<size_t>(std::ranges::count_if(directories, [](const std::string& directory) {
      return std::filesystem::exists(directory);
    }));
  }

  Words directories;
};

TEST_CASE("processes and threads are in their cgroups again, which are made again if need be") {
  if (skip_unless(geteuid() == 0, kOnlyRoot)) return;
  const TempDir directory;
  Target target("cgroups");
  const Groups groups(target);
  if (skip_unless(!groups.directories.empty(), "no cgroups of version 2 are mounted")) return;
  take_away(target.running(), directory / "image");
  CHECK(groups.count() == groups.directories.size());
  groups.remove();
  CHECK(groups.count() == 0);
  for (int round = 0; round < 2; ++round) {
    const Result end = run_again(directory / "image");
    INFO(end);
    CHECK(end.ok());
    CHECK_FALSE(contains(end.err, "cgroup"));
    CHECK(groups.count() == 0);
  }
}

TEST_CASE("a tree that is captured while it runs keeps its cgroups") {
  if (skip_unless(geteuid() == 0, kOnlyRoot)) return;
  const TempDir directory;
  Target target("cgroups");
  const Groups groups(target);
  capture(target.pid(), directory / "image");
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

// A container that somebody has paused.
TEST_CASE("a frozen tree is photographed as it is, and what cannot be asked for then is named") {
  if (skip_unless(geteuid() == 0, kOnlyRoot)) return;
  const TempDir directory;
  const std::string image = directory / "image";
  Target target("cgroups");
  const Groups groups(target);
  if (skip_unless(!groups.directories.empty(), "no cgroups of version 2 are mounted")) return;
  const std::string freeze = groups.directories.front() + "/cgroup.freeze";
  const std::string events = groups.directories.front() + "/cgroup.events";
  write_file(freeze, "1");
  while (!contains(read_file(events), "frozen 1")) usleep(1000);
  const Result taken = snapgdb({"capture", std::to_string(target.pid()), "-o", image});
  INFO(taken);
  CHECK(taken.status == 3);
  CHECK(contains(taken.err, "its cgroup is frozen (cgroup.freeze): thaw it"));
  CHECK_FALSE(contains(taken.err, "registers"));
  CHECK(contains(read_file(events), "frozen 1"));
  write_file(freeze, "0");
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("a cgroup namespace begins where it began") {
  if (skip_unless(geteuid() == 0, kOnlyRoot)) return;
  TakenPython program(
      "mounts = [line.split() for line in open('/proc/self/mounts')]\n"
      "points = [words[1] for words in mounts if words[2] == 'cgroup2']\n"
      "def place(): return [l[3:].rstrip() for l in open('/proc/self/cgroup') if l[:3] == "
      "'0::'][0]\n"
      "if points:\n"
      "  root = points[0] + place().rstrip('/') + f'/snapgdb-begins-{os.getpid()}'\n"
      "  print('cgroup', root, flush=True)\n"
      "  for path in [root, root + '/inner']:\n"
      "    os.mkdir(path); open(path + '/cgroup.procs', 'w').write('0')\n"
      "    if path == root: assert libc.unshare(0x02000000) == 0\n"  // CLONE_NEWCGROUP
      "  assert place() == '/inner', place()\n"
      "  told, end = os.pipe(), os.pipe()\n"
      "  child = os.fork()\n"
      "  if child == 0:\n"  // in one that begins further down
      "    assert libc.unshare(0x02000000) == 0 and place() == '/', place()\n"
      "    os.close(end[1]); os.write(told[1], b'.'); os.read(end[0], 1)\n"
      "    os._exit(0 if place() == '/' else 1)\n"
      "  os.read(told[0], 1)",
      "if points:\n"
      "  assert place() == '/inner', place()\n"
      "  os.close(end[1]); assert os.waitpid(child, 0)[1] == 0");
  const Words lines = lines_of(program.running.out());
  if (skip_unless(lines.front().starts_with("cgroup "), "no cgroups of version 2 are mounted"))
    return;
  const std::string root = lines.front().substr(7);
  program.take();
  for (const std::string& path : {root + "/inner", root}) rmdir(path.c_str());
  const Result end = run_again(program.image);
  INFO(end);
  CHECK(end.ok());
  CHECK_FALSE(contains(end.err, "begins where"));
  for (const std::string& path : {root + "/inner", root}) rmdir(path.c_str());
}

TEST_CASE("an isolated tree leaves cgroups alone, and says so") {
  if (skip_unless(geteuid() == 0, kOnlyRoot)) return;
  const TempDir directory;
  Target target("cgroups");
  const Groups groups(target);
  if (skip_unless(!groups.directories.empty(), "no cgroups of version 2 are mounted")) return;
  take_away(target.running(), directory / "image");
  groups.remove();
  const Result end = run_again(directory / "image", {"--isolated"});
  INFO(end);
  CHECK(contains(end.err, "the tree is in our cgroups, not in "));
  CHECK(groups.count() == 0);
}

TEST_CASE("a process whose first thread has ended keeps its cgroup and its filter of core dumps") {
  if (skip_unless(geteuid() == 0, kOnlyRoot)) return;
  TakenPython program(
      "import threading\n"
      "def state(tid): return [open(f'/proc/{tid}/{name}').read()\n"
      "                        for name in ('cgroup', 'coredump_filter')]\n"
      "open('/proc/self/coredump_filter', 'w').write('0x7f')\n"
      "before = state(os.getpid())\n"
      "def go_on():\n"
      "  while ' Z ' not in open(f'/proc/{os.getpid()}/stat').read(): time.sleep(0.01)\n"
      "  os.write(1, b'ready\\n'); wait()\n"
      "  os._exit(0 if state(threading.get_native_id()) == before else 7)\n"
      "threading.Thread(target=go_on).start()\n"
      "libc.pthread_exit(None)",
      "");
  program.take();
  program.check_runs_again();
}

}  // namespace
}  // namespace snapgdb::e2e
