// snapgdb restore, kind by kind: what only its users had, and what is seldom used.

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "tests/e2e/huge_pages.h"
#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

// The program checks itself at its end.
void check_restored(const std::string& name, const Words& arguments = {},
                    std::optional<uid_t> user = {}) {
  const TempDir directory;
  if (user) std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Target target(name, arguments, {.user = user});
  std::ofstream(target.scratch() + "/restored").put('\n');
  take_away(target.running(), directory / "image", {.user = user});
  const Result end = run_again(directory / "image", {}, {.user = user});
  INFO(end);
  CHECK(end.ok());
}

// ---- Tasks --------------------------------------------------------------------------------------

TEST_CASE("a process goes on without its first thread, beside zombies and orphans") {
  check_restored("zombies", {"--without-stopped"});
}

TEST_CASE("so does an ordinary user's") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  check_restored("zombies", {"--without-stopped"}, kNobody);
}

TEST_CASE("a first process whose first thread has exited ends as its last thread says") {
  const TempDir directory;
  Running python({"python3", "-c",
                  "import ctypes, os, sys, threading\n"
                  "def live():\n"
                  "  while open('/proc/self/stat').read().split()[2] != 'Z': pass\n"
                  "  print('ready', flush=True); sys.stdin.read(); os._exit(9)\n"
                  "threading.Thread(target=live).start()\n"
                  "ctypes.CDLL(None).syscall(60, 3)\n"},
                 {.input = RunOptions::kPipe});
  python.wait_for_line("ready");
  take_away(python, directory / "image");
  for (int round = 0; round < 2; ++round) {
    const Result end = run_again(directory / "image");
    INFO(end);
    CHECK(end.status == 9);
  }
}

TEST_CASE("processes share memory and descriptors as they did") {
  check_restored("sharers");
}

TEST_CASE("what programs seldom have comes back: removed, renumbered, known to the kernel only") {
  check_restored("leftovers", geteuid() == 0 ? Words{"--root"} : Words{});
}

TEST_CASE("so does an ordinary user's: removed, renumbered, known to the kernel only") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  check_restored("leftovers", {}, kNobody);
}

TEST_CASE("so does an isolated one: removed, renumbered, known to the kernel only") {
  const TempDir directory;
  Target target("leftovers");
  take_away(target.running(), directory / "image");
  const Result end = run_again(directory / "image", {"--isolated"});
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("what is queued in pipes comes back, packets as such") {
  check_restored("pipes");
}

TEST_CASE("so does what is queued in an ordinary user's pipes") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  check_restored("pipes", {}, kNobody);
}

TEST_CASE("a queue that is partly in packets is named as missing") {
  const char* what = GENERATE("(os.O_DIRECT, b'some'), (0, b'more')",  // a full page takes no more
                              "(0, b'x' * 4096), (os.O_DIRECT, b'y')");
  const TempDir directory;
  Running python({"python3", "-c",
                  fmt::format("import fcntl, os, sys\n"
                              "end, other = os.pipe()\n"
                              "for flags, what in {}:\n"
                              "  fcntl.fcntl(other, fcntl.F_SETFL, flags)\n"
                              "  os.write(other, what)\n"
                              "print('ready', flush=True); sys.stdin.read()\n",
                              what)},
                 {.input = RunOptions::kPipe});
  python.wait_for_line("ready");
  const Result captured =
      snapgdb({"capture", std::to_string(python.pid()), "-o", directory / "image"});
  INFO(captured);
  CHECK(contains(captured.err, "some of it is in packets, some is not"));
}

TEST_CASE("what stands around a program comes back: leases being broken, stops, logins") {
  check_restored("circumstances", geteuid() == 0 ? Words{"--root"} : Words{});
}

TEST_CASE("so does what stands around an ordinary user's") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  check_restored("circumstances", {}, kNobody);
}

TEST_CASE("so does what stands around an isolated one") {
  const TempDir directory;
  Target target("circumstances", {"--no-leases"});
  std::ofstream(target.scratch() + "/restored").put('\n');
  take_away(target.running(), directory / "image");
  const Result end = run_again(directory / "image", {"--isolated"});
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("a parent that waits in vfork is in the way by name, and killed with its child") {
  const TempDir directory;
  Target vforker("vforker", {}, {.input = RunOptions::kPipe});
  const std::vector<pid_t> pids = tree_of(vforker.pid());
  REQUIRE(pids.size() == 2);
  const Result captured =
      snapgdb({"capture", std::to_string(vforker.pid()), "-o", directory / "image", "--kill"});
  INFO(captured);
  CHECK(vforker.running().wait().signal == SIGKILL);
  for (const pid_t pid : pids) await_end(pid);
  const Result refused = snapgdb({"restore", directory / "image"});
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, "waits in vfork(2)"));
}

// ---- Files with a name --------------------------------------------------------------------------

// A script that says "ready", waits for a line, and prints what it finds.
Running start_python(const std::string& script, const Words& arguments = {}) {
  Words command{"python3", "-c", script};
  command.insert(command.end(), arguments.begin(), arguments.end());
  Running python(command, {.input = RunOptions::kPipe});
  python.wait_for_line("ready");
  return python;
}

TEST_CASE("FIFOs are opened again, with what was in them, and outsiders find them") {
  const TempDir directory;
  const std::string fifo = directory / "fifo";
  Running python = start_python(
      "import fcntl, os, sys\n"
      "path = sys.argv[1]; os.mkfifo(path)\n"
      "both = os.open(path, os.O_RDWR); r = os.open(path, os.O_RDONLY | os.O_NONBLOCK)\n"
      "w = os.open(path, os.O_WRONLY); fcntl.fcntl(w, 1031, 1 << 17); os.write(w, b'x' * 100000)\n"
      "print('ready', flush=True); sys.stdin.readline()\n"
      "print(len(os.read(r, 1 << 20)), fcntl.fcntl(both, 1032), "
      "os.readlink(f'/proc/self/fd/{r}'))\n"
      "flags = [fcntl.fcntl(fd, fcntl.F_GETFL) & 0o4003 for fd in (both, r, w)]; print(flags)\n"
      "os.write(os.open(path, os.O_WRONLY), b'new'); print(os.read(r, 9))\n",
      {fifo});
  take_away(python, directory / "image");
  const Result end = run_again(directory / "image");
  INFO(end);
  CHECK(end.out == "100000 131072 " + fifo + "\n[2, 2048, 1]\nb'new'\n");
  std::filesystem::remove(fifo);
  const Result refused = snapgdb({"restore", directory / "image"});
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, fifo + ": No such file or directory"));
}

// It holds a lock of each kind, and tells of its own kind's others whether they are in its way.
constexpr const char* kLocks =
    "import fcntl, os, struct, sys\n"
    "files = [os.open(sys.argv[1] + f'/{i}', os.O_RDWR | os.O_CREAT) for i in range(3)]\n"
    "def range_of(kind, start, length): return struct.pack('hhqqi4x', kind, 0, start, length, 0)\n"
    "kept = []\n"
    "def taken(i, at):\n"
    "  fd = os.open(sys.argv[1] + f'/{i}', os.O_RDWR)\n"
    "  if i == 2:\n"
    "    try: fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB); return False\n"
    "    except BlockingIOError: return True\n"
    "  kept.append(fd)  # closing it would undo the process's own locks\n"
    "  got = fcntl.fcntl(fd, 36, range_of(fcntl.F_WRLCK, at, 1))\n"
    "  return struct.unpack('hhqqi4x', got)[0] != fcntl.F_UNLCK\n"
    "fcntl.fcntl(files[0], fcntl.F_SETLK, range_of(fcntl.F_WRLCK, 100, 100))\n"
    "fcntl.fcntl(files[0], fcntl.F_SETLK, range_of(fcntl.F_RDLCK, 1 << 40, 0))\n"
    "fcntl.fcntl(files[1], 37, range_of(fcntl.F_WRLCK, 10, 10))\n"
    "fcntl.flock(files[2], fcntl.LOCK_EX)\n"
    "print('ready', flush=True); sys.stdin.readline()\n"
    "places = [(1, 9), (1, 10), (1, 19), (1, 20), (2, 0), (0, 99), (0, 100)]\n"
    "print([taken(i, at) for i, at in places])\n";

TEST_CASE("file locks are taken again where they are free, and named where they are not") {
  const TempDir directory;
  Running python = start_python(kLocks, {directory.path()});
  take_away(python, directory / "image");
  const Result end = run_again(directory / "image");
  INFO(end);
  CHECK(end.out == "[False, True, True, False, True, False, True]\n");
  CHECK_FALSE(contains(end.err, "lock"));

  Running other = start_python(kLocks, {directory.path()});
  const Result beside = run_again(directory / "image");
  INFO(beside);
  for (const char* file : {"/0", "/1", "/2"})
    CHECK(contains(beside.err, fmt::format("a lock of {}{} is not taken again: somebody else",
                                           directory.path(), file)));
}

TEST_CASE("a process's root directory is the one it had") {
  if (skip_unless(geteuid() == 0, "only root changes the root directory")) return;
  const TempDir directory;
  std::filesystem::create_directories(directory / "jail/inner");
  Running python = start_python(
      "import os, sys\n"
      "os.chdir(sys.argv[1]); os.chroot('.'); os.chdir('/inner')\n"
      "print('ready', flush=True); sys.stdin.readline()\n"
      "print(os.getcwd(), os.listdir('/'), os.path.exists('/etc'))\n",
      {directory / "jail"});
  take_away(python, directory / "image");
  const Result end = run_again(directory / "image");
  INFO(end);
  CHECK(end.out == "/inner ['inner'] False\n");
  std::filesystem::remove(directory / "jail/inner");
  const Result refused = snapgdb({"restore", directory / "image"});
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, "jail/inner: it is not there any more"));
}

TEST_CASE("a descriptor sends its signals to whom it sent them") {
  const TempDir directory;
  Running python = start_python(
      "import fcntl, os, signal, sys\n"
      "r, w = os.pipe(); got = []\n"
      "signal.signal(signal.SIGUSR2, lambda number, _: got.append(number))\n"
      "fcntl.fcntl(r, fcntl.F_SETOWN, os.getpid()); fcntl.fcntl(r, 10, signal.SIGUSR2)\n"
      "fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)\n"
      "print('ready', flush=True); sys.stdin.readline()\n"
      "os.write(w, b'x'); print(got == [signal.SIGUSR2], fcntl.fcntl(r, 11) == signal.SIGUSR2)\n");
  take_away(python, directory / "image");
  const Result end = run_again(directory / "image");
  INFO(end);
  CHECK(end.out == "True True\n");
}

// ---- Files without a name -----------------------------------------------------------------------

TEST_CASE("removed files and memfds have their content, holes, sharing, seals and times") {
  check_restored("nameless");
}

TEST_CASE("an ordinary user's removed files and memfds come back, too") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  check_restored("nameless", {"--all-open"}, kNobody);
}

TEST_CASE("a tree with removed files is captured while it runs, and does not notice") {
  const TempDir directory;
  Target target("nameless");
  capture(target.pid(), directory / "image");
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("a removed file whose name is taken now is restored beside the new one") {
  const TempDir directory;
  Running shell(
      {"bash", "-c",
       "cd \"$1\"; echo old >file; exec 3<file; rm file; echo ready; read -r line; cat <&3", "-",
       directory.path()},
      {.input = RunOptions::kPipe});
  shell.wait_for_line("ready");
  take_away(shell, directory / "image");
  std::ofstream(directory / "file") << "new\n";
  const Result end = run_again(directory / "image");
  INFO(end);
  CHECK(end.out == "old\n");
  CHECK(read_file(directory / "file") == "new\n");
  CHECK(directory.names() == Words{"file", "image"});
}

TEST_CASE("what a program keeps out of dumps is not taken from its memfd either") {
  const TempDir directory;
  Running python({"python3", "-c",
                  "import mmap, os\n"
                  "m = os.memfd_create('secret'); os.write(m, b'x' * 8192)\n"
                  "view = mmap.mmap(m, 4096); view.madvise(mmap.MADV_DONTDUMP)\n"
                  "print('ready', flush=True); input()\n"},
                 {.input = RunOptions::kPipe});
  python.wait_for_line("ready");
  capture(python.pid(), directory / "image", {"--kill"});
  python.wait();
  const Result result = snapgdb({"restore", directory / "image"});
  INFO(result);
  CHECK(result.status == 1);
  CHECK(contains(result.err, "/memfd:secret: its content is not in the image"));
  CHECK(contains(result.err, "MADV_DONTDUMP"));
}

TEST_CASE("huge pages come back as such, or are said to be lacking beforehand") {
  if (skip_unless(geteuid() == 0, "only root sets huge pages aside")) return;
  const TempDir directory;
  {
    const HugePages pool(6);
    if (skip_unless(pool.enough(), "the machine has no huge pages to spare")) return;
    Target target("nameless", {"--hugetlb"});
    take_away(target.running(), directory / "image");
    const Result end = run_again(directory / "image");
    INFO(end);
    CHECK(end.ok());
  }
  if (std::stoul(read_file("/proc/sys/vm/nr_hugepages")) > 0) return;
  const Result refused = snapgdb({"restore", directory / "image"});
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, "the tree needs 6, of which 0 are free"));
  CHECK(contains(refused.err, "nr_hugepages"));
}

// ---- Epoll --------------------------------------------------------------------------------------

TEST_CASE(
    "an epoll watches what it watched, by the same numbers, also for a child and another epoll") {
  const TempDir directory;
  Running python(
      {"python3", "-c",
       "import os, select, sys\n"
       "inner, outer, e, (r, w) = select.epoll(), select.epoll(), os.eventfd(0), os.pipe()\n"
       "os.dup2(r, 77); os.close(r)\n"
       "inner.register(77, select.EPOLLIN | select.EPOLLET); inner.register(e, select.EPOLLIN)\n"
       "outer.register(inner.fileno(), select.EPOLLIN)\n"
       "child = os.fork(); print('ready', flush=True)\n"
       "if child == 0:\n"
       "    events = inner.poll(20); os._exit(0 if events == [(e, 1)] else 1)\n"
       "input(); print(outer.poll(0), inner.poll(0)); os.eventfd_write(e, 5)\n"
       "print(os.waitpid(child, 0)[1], outer.poll(5) == [(inner.fileno(), 1)])\n"
       "os.eventfd_read(e); os.write(w, b'x'); print(inner.poll(5), inner.poll(0))\n"
       "inner.modify(77, 0); inner.unregister(77); inner.unregister(e); print('done')\n"},
      {.input = RunOptions::kPipe});
  python.wait_for_line("ready");
  usleep(200'000);
  take_away(python, directory / "image");
  const Result end = run_again(directory / "image", {}, {}, "\n");
  INFO(end);
  CHECK(end.out == "[] []\n0 True\n[(77, 1)] []\ndone\n");
}

// ---- All at once --------------------------------------------------------------------------------

TEST_CASE("a busy tree of thirty processes in four sessions is moved ten times, and counts right") {
  if (skip_unless(geteuid() == 0, "is found again by its process numbers as root only")) return;
  const TempDir directory;
  Target tangle("tangle", {}, {.input = RunOptions::kPipe});
  const std::vector<pid_t> pids = tree_of(tangle.pid());
  REQUIRE(pids.size() == 30);
  take_away(tangle.running(), directory / "image");
  for (int round = 0; round < 10; ++round) {
    CAPTURE(round);
    // Its standard input is held open until it has been captured again.
    Running restore({program(), "restore", "--detach", directory / "image"},
                    {.input = RunOptions::kPipe});
    const Result restored = restore.wait();
    INFO(restored);
    REQUIRE(restored.ok());
    usleep(20'000);
    CHECK(tree_of(pids.front()).size() == pids.size());
    capture(pids.front(), directory / "image", {"--kill", "--all-memory"});
    for (const pid_t pid : pids) await_end(pid);
  }
  const Result end = run_again(directory / "image");
  INFO(end);
  CHECK(end.ok());
}

}  // namespace
}  // namespace snapgdb::e2e
