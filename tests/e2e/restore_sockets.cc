// snapgdb restore: sockets of unix(7).

#include <signal.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

namespace fs = std::filesystem;

Words with(const Words& options, const Words& more) {
  Words all = options;
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

// The program checks itself at its end, and removes the files of its names then: they are put back
// before the next round.
void check_restored(const Words& options, std::optional<uid_t> user = {}) {
  const TempDir directory;
  if (user) fs::permissions(directory.path(), fs::perms::all);
  Target target("unix_sockets", {}, {.user = user});
  take_away(target.running(), directory / "image", {.user = user});
  const std::string scratch = target.scratch();
  REQUIRE(run({"cp", "-a", scratch, directory / "saved"}).ok());
  for (int round = 0; round < 2; ++round) {
    CAPTURE(round);
    const Result end = run_again(directory / "image", options, {.user = user});
    INFO(end);
    CHECK(end.ok());
    CHECK_FALSE(contains(end.err, "sockets tell another"));
    CHECK_FALSE(contains(end.err, "lacks"));
    REQUIRE(run({"rm", "-rf", scratch}).ok());
    REQUIRE(run({"cp", "-a", directory / "saved", scratch}).ok());
  }
}

TEST_CASE("unix sockets come back with their connections, names and queues") {
  check_restored({});
}

TEST_CASE("unix sockets come back isolated, too") {
  check_restored({"--isolated"});
}

TEST_CASE("an ordinary user's unix sockets come back") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  check_restored({}, kNobody);
  check_restored({"--isolated"}, kNobody);
}

TEST_CASE("a tree whose unix sockets are captured five times does not notice") {
  const TempDir directory;
  Target target("unix_sockets");
  for (int round = 0; round < 5; ++round)
    capture(target.pid(), directory / ("image" + std::to_string(round)));
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

Running start_python(const std::string& script, const Words& arguments = {}) {
  Running python(with({"python3", "-c", script}, arguments), {.input = RunOptions::kPipe});
  python.wait_for_line("ready");
  return python;
}

TEST_CASE("a unix socket whose other end is outside is in the way, and lost where it must be") {
  const TempDir directory;
  const std::string name = directory / "server";
  Running server = start_python(
      "import socket, sys\n"
      "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n"
      "print('ready', flush=True); c, _ = s.accept(); sys.stdin.read()\n",
      {name});
  Running client = start_python(
      "import socket, sys\n"
      "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print('ready', flush=True)\n"
      "sys.stdin.read()\n"
      "try: print('received', s.recv(1))\n"
      "except OSError as e: print(e)\n",
      {name});
  usleep(100'000);
  take_away(client, directory / "image");
  const Result refused = snapgdb({"restore", directory / "image"});
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, "its other end is outside of the tree"));
  CHECK(contains(refused.err, "--without socket"));
  const Result lost = run_again(directory / "image", {"--without", "socket"});
  INFO(lost);
  CHECK(lost.out == "received b''\n");
}

TEST_CASE("a name that somebody else is bound to by now is in the way, unless isolated") {
  const TempDir directory;
  const std::string name = directory / "name";
  const std::string script =
      "import os, socket, sys\n"
      "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind(sys.argv[1])\n"
      "print('ready', flush=True); sys.stdin.read()\n"
      "c = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); c.sendto(b'hello', sys.argv[1])\n"
      "print(s.recv(9))\n";
  Running python = start_python(script, {name});
  take_away(python, directory / "image");
  fs::remove(name);
  Running other = start_python(script, {name});
  const Result refused = snapgdb({"restore", directory / "image"});
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, "somebody else is bound to it"));
  const Result isolated = run_again(directory / "image", {"--isolated"});
  INFO(isolated);
  CHECK(isolated.out == "b'hello'\n");
  other.close_input();
  CHECK(other.wait().out == "ready\nb'hello'\n");
  const Result free = run_again(directory / "image");
  INFO(free);
  CHECK(free.out == "b'hello'\n");
}

TEST_CASE("what was sent over a connection that nobody has accepted is in the way") {
  const TempDir directory;
  Running python = start_python(
      "import socket, sys\n"
      "s = socket.socket(socket.AF_UNIX); s.bind('\\0snapgdb unaccepted'); s.listen()\n"
      "c = socket.socket(socket.AF_UNIX); c.connect(s.getsockname()); c.send(b'early')\n"
      "print('ready', flush=True); sys.stdin.read()\n");
  take_away(python, directory / "image");
  const Result refused = snapgdb({"restore", directory / "image"});
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, "nobody has accepted cannot be read"));
}

TEST_CASE("datagrams to a socket of others arrive there again, but not from a sandbox") {
  const TempDir directory;
  const std::string name = directory / "log";
  Running log = start_python(
      "import socket, sys\n"
      "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind(sys.argv[1])\n"
      "print('ready', flush=True); sys.stdin.read(); s.settimeout(0)\n"
      "try:\n"
      "  while True: print(s.recv(99))\n"
      "except BlockingIOError: pass\n",
      {name});
  Running client = start_python(
      "import socket, sys\n"
      "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(sys.argv[1])\n"
      "print('ready', flush=True); sys.stdin.read()\n"
      "try: s.send(b'restored')\n"
      "except OSError as e: print(type(e).__name__)\n",
      {name});
  take_away(client, directory / "image");
  const Result isolated = run_again(directory / "image", {"--isolated"});
  INFO(isolated);
  CHECK(contains(isolated.out, "Error\n"));
  const Result end = run_again(directory / "image");
  INFO(end);
  CHECK(end.ok());
  log.close_input();
  CHECK(log.wait().out == "ready\nb'restored'\n");
}

TEST_CASE("a standard stream that is a socket of the tree's own stays one") {
  const TempDir directory;
  Running python = start_python(
      "import os, socket, sys\n"
      "a, b = socket.socketpair(); child = os.fork()\n"
      "if child == 0:\n"
      "  a.close(); os.dup2(b.fileno(), 1); b.close()\n"
      "  sys.stdin.read(); os.write(1, b'from the child'); os._exit(0)\n"
      "b.close(); print('ready', flush=True)\n"
      "print(a.recv(99), a.recv(99), os.waitpid(child, 0)[1])\n");
  usleep(200'000);
  take_away(python, directory / "image");
  const Result end = run_again(directory / "image");
  INFO(end);
  CHECK(end.out == "b'from the child' b'' 0\n");
}

}  // namespace
}  // namespace snapgdb::e2e
