// snapgdb capture of programs to which it could do harm: what they must not notice, one by one.

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "tests/e2e/json.h"
#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

constexpr const char* kHead =
    "import ctypes, os, signal, socket, sys, time\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n";

Running python(const std::string& script, RunOptions options = {}) {
  options.input = RunOptions::kPipe;
  Running running({"python3", "-c", kHead + script}, std::move(options));
  running.wait_for_line("ready");
  return running;
}

// Who does so makes that no first copies are made.
bool can_read_past_cache(const TempDir& directory) {
  const std::string path = directory / "probe";
  return Fd(open(path.c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600)).valid();
}

void check_captured(const Running& program, const std::string& image) {
  const Result captured = snapgdb({"capture", std::to_string(program.pid()), "-o", image});
  INFO(captured);
  CHECK(captured.ok());
}

void check_ends_well(Running& program) {
  program.close_input();
  const Result end = program.wait();
  INFO(end);
  CHECK(end.ok());
}

// The third process of a twin is refused by a limit that the program is at.
TEST_CASE("a program that may have no more processes is captured, and lives on") {
  if (skip_unless(geteuid() == 0, "to become another user, one must be root")) return;
  constexpr uid_t kNobodyElse = 54'321;
  const TempDir directory;
  if (skip_unless(can_read_past_cache(directory), "this file system has no O_DIRECT")) return;
  std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  const std::string script =
      "memory = bytearray(os.urandom(1 << 20)) * 90\n"
      "file = os.open('" +
      directory / "file" +
      "', os.O_RDWR | os.O_CREAT | os.O_DIRECT)\n"
      "before = hash(bytes(memory))\n"
      "print('ready', flush=True); sys.stdin.read()\n"
      "assert hash(bytes(memory)) == before\n";
  for (const rlim_t most : {2, 3, 4}) {
    CAPTURE(most);
    Running program = python(script, {.user = kNobodyElse, .before_exec = [most] {
                                        const rlimit limit{most, most};
                                        setrlimit(RLIMIT_NPROC, &limit);
                                      }});
    for (int round = 0; round < 3; ++round)
      check_captured(program, directory / fmt::format("image{}-{}", most, round));
    check_ends_well(program);
  }
}

TEST_CASE("a connection that is closed while the image is written is closed at once") {
  const TempDir directory;
  if (skip_unless(can_read_past_cache(directory), "this file system has no O_DIRECT")) return;
  Running program = python(
      "memory = os.urandom(150 << 20)\n"
      "file = os.open('" +
      directory / "file" +
      "', os.O_RDWR | os.O_CREAT | os.O_DIRECT)\n"
      "listener = socket.create_server(('127.0.0.1', 0))\n"
      "client = socket.create_connection(listener.getsockname())\n"
      "server = listener.accept()[0]\n"
      "if os.fork() == 0:\n"
      "  server.close(); listener.close(); os.write(1, b'ready\\n')\n"
      "  assert client.recv(1) == b''\n"
      "  os.write(1, b'closed\\n'); os._exit(0)\n"
      "client.close(); sys.stdin.readline(); server.close(); time.sleep(1000)\n");
  // Nobody reads what it writes.
  Running capture({"sh", "-c", "\"$@\" | sleep 1000", "sh", e2e::program(), "capture",
                   std::to_string(program.pid()), "-o", "-", "--level", "0"});
  usleep(1'500'000);  // the tree is stopped and goes on meanwhile; if not yet, nothing is shown
  program.write("\n");
  program.wait_for_line("closed");
  CHECK_FALSE(capture.exited());
  capture.kill();
  program.kill();
}

TEST_CASE("who was to be told of a message in a queue still is, and the image says so") {
  const TempDir directory;
  Running program = python(
      "import struct\n"
      "memory = os.urandom(8 << 20)\n"
      "rt = ctypes.CDLL('librt.so.1', use_errno=True)\n"
      "name = f'/snapgdb-told-{os.getpid()}'.encode()\n"
      "queue = rt.mq_open(name, os.O_RDWR | os.O_CREAT, 0o600, None)\n"
      "assert queue >= 0 and rt.mq_unlink(name) == 0\n"
      "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})\n"
      "event = struct.pack('Qii48x', 0, signal.SIGUSR1, 0)\n"
      "assert rt.mq_notify(queue, event) == 0\n"
      "print('ready', flush=True); sys.stdin.read()\n"
      "assert rt.mq_send(queue, b'x', 1, 0) == 0\n"
      "assert signal.sigtimedwait({signal.SIGUSR1}, 5) is not None\n");
  check_captured(program, directory / "image");
  check_ends_well(program);
}

TEST_CASE("a crash is captured while others of the tree come and go") {
  const TempDir directory;
  const std::string forks = fmt::format(
      "{}import threading\n"
      "def work():\n"
      "  while True:\n"
      "    child = os.fork()\n"
      "    if child == 0: os._exit(0)\n"
      "    os.waitpid(child, 0)\n"
      "for i in range(3):\n"
      "  if os.fork() == 0: work()\n"
      "threading.Thread(target=work, daemon=True).start()\n"
      "time.sleep(0.3); os.abort()\n",
      kHead);
  for (int round = 0; round < 5; ++round) {
    CAPTURE(round);
    const std::string image = directory / std::to_string(round);
    Running command({program(), "run", "-o", image, "--", "python3", "-c", forks});
    const Result end = command.wait();
    INFO(end);
    CHECK(end.signal == SIGABRT);
    CHECK_FALSE(contains(end.err, "no snapshot"));
    CHECK(snapgdb({"verify", image}).ok());
  }
}

TEST_CASE("each snapshot of an image has the program that there was") {
  const TempDir directory;
  // The same file, by its device and inode.
  const std::string twice = "cp " + target_path("crasher") +
                            " prog; ./prog abort; printf more >>prog; ./prog abort; true";
  const Result end = snapgdb({"run", "-o", directory / "image", "--", "sh", "-c", twice},
                             {.directory = directory.path()});
  INFO(end);
  CHECK(end.ok());
  std::vector<std::string> sizes;
  for (const char* at : {"@1", "@2"}) {
    const Json json = parse_json(snapgdb({"show", directory / "image" + at, "--json"}).out);
    const Json& crashed = element_with(json, "processes", "name", "prog");
    const std::string id = json_at(crashed, "mappings.0.file");
    const Json& file = element_with(json, "files", "id", id);
    sizes.push_back(json_at(file, "size"));
  }
  CHECK(std::stoul(sizes[1]) == std::stoul(sizes[0]) + 4);
}

}  // namespace
}  // namespace snapgdb::e2e
