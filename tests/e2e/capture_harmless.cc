// snapgdb capture of programs to which it could do harm: what they must not notice, one by one.

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mount.h>
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

Running python(const std::string& script, RunOptions options = {},
               const std::string& says = "ready") {
  options.input = RunOptions::kPipe;
  Running running({"python3", "-c", kHead + script}, std::move(options));
  running.wait_for_line(says);
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
  constexpr uid_t kNobodyElse = 54'325;
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

// As large as a disk that is full.
TEST_CASE("what was typed is there still, when a capture that ends the program fails") {
  const TempDir directory;
  Running program = python(
      "import pty, termios\n"
      "master, slave = pty.openpty()\n"
      "os.write(master, b'typed\\nand more'); os.write(slave, b'shown\\n')\n"
      "settings = termios.tcgetattr(slave)\n"
      "print('ready', flush=True); sys.stdin.read()\n"
      "assert termios.tcgetattr(slave) == settings\n"
      "assert b'shown' in os.read(master, 1000)\n"
      "assert os.read(slave, 1000) == b'typed\\n'\n"
      "os.write(master, b'!\\n'); assert os.read(slave, 1000) == b'and more!\\n'\n");
  const Result failed =
      snapgdb({"capture", std::to_string(program.pid()), "-o", directory / "image", "--kill"},
              {.before_exec = [] {
                const rlimit small{65'536, 65'536};
                setrlimit(RLIMIT_FSIZE, &small);
              }});
  INFO(failed);
  CHECK(failed.status == 1);
  check_ends_well(program);
}

// In repair mode, an acknowledgement that comes sends nothing on: the other end would notice.
TEST_CASE("a connection to outside that is not kept is not taken into repair mode") {
  if (skip_unless(geteuid() == 0, "repair mode takes root")) return;
  const TempDir directory;
  Running server = python(
      "listener = socket.create_server(('127.0.0.1', 0))\n"
      "print('port', listener.getsockname()[1], flush=True); peer = listener.accept()[0]\n"
      "while peer.recv(1 << 16): pass\n",
      {}, "port");
  const std::string port = lines_of(server.out()).front().substr(5);
  Running sender = python("s = socket.create_connection(('127.0.0.1', " + port +
                          "))\n"
                          "l = socket.create_server(('127.0.0.1', 0))\n"
                          "within = socket.create_connection(l.getsockname()); a = l.accept()[0]\n"
                          "print('ready', flush=True); sys.stdin.read(); s.send(b'x')\n");
  check_captured(sender, directory / "image");
  const Json json = parse_json(snapgdb({"show", directory / "image", "--json"}).out);
  const auto window = [&](const char* descriptor) {
    return json_at(element_with(json, "processes.0.descriptors", "number", descriptor),
                   "socket.tcp.window");
  };
  CHECK(window("3").empty());
  CHECK_FALSE(window("5").empty());
  check_ends_well(sender);
  server.kill();
}

// fuse(4), include/uapi/linux/fuse.h: a directory with one file, in which everything has number 1
// or 2.
constexpr const char* kServer = R"PY(
import struct
fuse = os.open('/dev/fuse', os.O_RDWR)
where = sys.argv[1]
options = f'fd={fuse},rootmode=40000,user_id=0,group_id=0'.encode()
assert libc.mount(b'test', where.encode(), b'fuse', 0, options) == 0
def attributes(node):
  mode = 0o40755 if node == 1 else 0o100644
  return struct.pack('6Q10I', node, 5, 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
def answer(kind, node):
  if kind == 26: return struct.pack('4I2H2I2H8I', 7, 31, 0, 0, 1, 1, 4096, 1, 1, 0, *[0] * 8)
  if kind == 1: return struct.pack('4Q2I', 2, 0, 3600, 3600, 0, 0) + attributes(2)
  if kind == 3: return struct.pack('Q2I', 3600, 0, 0) + attributes(node)
  if kind in (14, 27): return struct.pack('Q2I', 0, 0, 0)
def serve():
  while True:
    asked = os.read(fuse, 1 << 17)
    size, kind, number, node = struct.unpack_from('IIQQ', asked)
    if kind in (2, 42): continue  # FORGET, BATCH_FORGET: nobody waits
    content = answer(kind, node)
    out = struct.pack('IiQ', 16 + len(content or b''), 0 if content else -38, number)
    os.write(fuse, out + (content or b''))
server = os.fork()
if server == 0: serve()
os.close(fuse)
file = os.open(where + '/file', os.O_RDONLY)
print('ready', flush=True); sys.stdin.read()
os.close(file); os.kill(server, 9); os.waitpid(server, 0)
)PY";

TEST_CASE("a tree that serves a file system to itself is not stopped") {
  if (skip_unless(geteuid() == 0 && access("/dev/fuse", R_OK | W_OK) == 0, "there is no FUSE here"))
    return;
  const OwnMounts mounts;
  const TempDir directory;
  const std::string where = directory / "served";
  std::filesystem::create_directory(where);
  Running program({"python3", "-c", kHead + std::string(kServer), where},
                  {.input = RunOptions::kPipe});
  program.wait_for_line("ready");
  const Result refused =
      snapgdb({"capture", std::to_string(program.pid()), "-o", directory / "image"});
  check_says(refused, {"of a file system in user space", "stopped, it would not answer"});
  CHECK(refused.status == 1);
  check_ends_well(program);
  umount2(where.c_str(), MNT_DETACH);
}

TEST_CASE("threads of the kernel's, which work for an io_uring, are none of the program's") {
  Running program = python(
      "flags = [0] * 30\n"
      "flags[2] = 2\n"                                                 // IORING_SETUP_SQPOLL
      "ring = libc.syscall(425, 4, (ctypes.c_uint32 * 30)(*flags))\n"  // io_uring_setup(2)
      "print('refused' if ring < 0 else 'ready', flush=True)\n"
      "sys.stdin.read()\n"
      "assert ring < 0 or len(os.listdir('/proc/self/task')) == 2",
      {}, "re");
  if (skip_unless(contains(program.out(), "ready"), "io_uring is refused here")) return;
  const TempDir directory;
  const std::string image = directory / "image";
  check_captured(program, image);  // and nothing is missing
  CHECK(contains(snapgdb({image}).out, "1 thread"));
  check_ends_well(program);
}

// There are not enough to look at it by: nothing is said of it that is not so.
TEST_CASE("a capture that has too few descriptors says that it has") {
  const TempDir directory;
  Running program = python("print('ready', flush=True); sys.stdin.read()\n");
  for (const rlim_t most : {4, 6, 8, 12, 16, 24, 32}) {
    CAPTURE(most);
    const Result refused = snapgdb(
        {"capture", std::to_string(program.pid()), "-o", directory / "x"}, {.before_exec = [most] {
          const rlimit limit{most, most};
          setrlimit(RLIMIT_NOFILE, &limit);
        }});
    INFO(refused);
    if (!refused.ok()) CHECK_FALSE(contains(refused.err, "exited"));
    if (!refused.ok()) CHECK_FALSE(contains(refused.err, "no such process"));
  }
  check_ends_well(program);
}

}  // namespace
}  // namespace snapgdb::e2e
