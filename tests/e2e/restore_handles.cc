// snapgdb restore: open files that lead to tasks, or bind others.

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

// A script that says "ready", waits for a line, and prints what it finds.
Running start_python(const std::string& script, const Words& arguments = {},
                     std::optional<uid_t> user = {}) {
  Words command{"python3", "-c", script};
  command.insert(command.end(), arguments.begin(), arguments.end());
  Running python(command, {.input = RunOptions::kPipe, .user = user});
  python.wait_for_line("ready");
  return python;
}

// The child's descriptors are its parent's.
constexpr const char* kProcFiles =
    "import os, sys\n"
    "me = os.getpid(); release = os.pipe(); child = os.fork()\n"
    "if child == 0:\n"
    "  os.close(release[1]); os.read(release[0], 1); os._exit(0)\n"
    "names = [f'/proc/{me}/status', '/proc/self/stat', f'/proc/{child}/status',\n"
    "         f'/proc/{child}/task/{child}/stat', '/proc/self/task']\n"
    "files = [os.open(name, os.O_RDONLY) for name in names]\n"
    "os.lseek(files[2], 6, os.SEEK_SET); same = os.dup(files[2])\n"
    "print('ready', flush=True); sys.stdin.readline()\n"
    "links = [os.readlink(f'/proc/self/fd/{file}') for file in files]\n"
    "print(links == [f'/proc/{me}/status', f'/proc/{me}/stat', f'/proc/{child}/status',\n"
    "                f'/proc/{child}/task/{child}/stat', f'/proc/{me}/task'])\n"
    "print(os.lseek(same, 0, os.SEEK_CUR), f'Pid:\\t{me}\\n'.encode() in os.read(files[0], 4096))\n"
    "print(f'Pid:\\t{child}\\n'.encode() in os.read(same, 4096))\n"
    "print(os.read(files[1], 100).split()[0] == str(me).encode(),\n"
    "      os.read(files[3], 100).split()[0] == str(child).encode(),\n"
    "      os.listdir(files[4]) == [str(me)])\n"
    "os.close(release[1]); print(os.waitpid(child, 0)[1])\n";
constexpr const char* kProcFilesFound = "True\n6 True\nTrue\nTrue True True\n0\n";

TEST_CASE("open files of /proc tell of the tree's own processes again") {
  const TempDir directory;
  Running python = start_python(kProcFiles);
  take_away(python, directory / "image");
  for (const Words& options : {Words{}, Words{}, Words{"--isolated"}}) {
    const Result end = run_again(directory / "image", options);
    INFO(end);
    CHECK(end.out == kProcFilesFound);
  }
}

TEST_CASE("so do an ordinary user's") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  const TempDir directory;
  std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Running python = start_python(kProcFiles, {}, kNobody);
  take_away(python, directory / "image", {.user = kNobody});
  const Result end = run_again(directory / "image", {}, {.user = kNobody});
  INFO(end);
  CHECK(end.out == kProcFilesFound);
}

// What a child had there is empty once it has ended: whoever reads it is told so.
constexpr const char* kEnded = R"(
import os, signal, sys
child = os.fork()
if child == 0:
    signal.pause()
names = [f"/proc/{child}", f"/proc/{child}/mountinfo", f"/proc/{child}/task/{child}/stat"]
files = [os.open(name, os.O_RDONLY) for name in names]
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
def what(look):
    try:
        return look()
    except OSError as error:
        return error.strerror
def what_they_tell():
    return [what(lambda: os.listdir(files[0])), what(lambda: os.read(files[2], 9)), what(os.wait),
            [os.readlink(f"/proc/self/fd/{file}").count("/proc/") for file in files]]
before = what_they_tell()
print("ready", flush=True)
sys.stdin.readline()
print(before == what_they_tell(), before[1:])
)";

TEST_CASE("files of /proc about a task that has ended tell of none") {
  const TempDir directory;
  Running python = start_python(kEnded);
  take_away(python, directory / "image");
  for (const Words& options : {Words{}, Words{"--isolated"}}) {
    const Result end = run_again(directory / "image", options);
    INFO(end);
    CHECK(end.out == "True ['No such process', 'No child processes', [1, 1, 1]]\n");
  }
}

TEST_CASE("leases are taken again, and their holder is told of who opens the file") {
  const TempDir directory;
  Running python = start_python(
      "import fcntl, os, signal, sys\n"
      "got = []; signal.signal(signal.SIGIO, lambda number, _: got.append(number))\n"
      "names = [sys.argv[1] + f'/{i}' for i in range(2)]\n"
      "for name in names: os.close(os.open(name, os.O_CREAT | os.O_WRONLY))\n"
      "files = [os.open(names[0], os.O_RDONLY), os.open(names[1], os.O_RDWR)]\n"
      "fcntl.fcntl(files[0], fcntl.F_SETLEASE, fcntl.F_RDLCK)\n"
      "fcntl.fcntl(files[1], fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
      "print('ready', flush=True); sys.stdin.readline()\n"
      "print([fcntl.fcntl(file, fcntl.F_GETLEASE) for file in files])\n"
      "try: os.open(names[0], os.O_WRONLY | os.O_NONBLOCK)\n"
      "except BlockingIOError: os.getpid()  # so that the handler is called\n"
      "print(got == [signal.SIGIO])\n"
      "try: os.open(names[1], os.O_RDONLY | os.O_NONBLOCK)\n"
      "except BlockingIOError: os.getpid()  # so that the handler is called\n"
      "print(got == 2 * [signal.SIGIO])\n",
      {directory.path()});
  take_away(python, directory / "image");
  for (int round = 0; round < 2; ++round) {
    const Result end = run_again(directory / "image");
    INFO(end);
    CHECK(end.out == "[0, 1]\nTrue\nTrue\n");
    CHECK_FALSE(contains(end.err, "lease"));
  }
}

TEST_CASE("who is to be told of urgent data is told, also without O_ASYNC") {
  if (skip_unless(geteuid() == 0, "connections are root's to make again")) return;
  TakenPython receiver(
      "server = socket.socket(); server.bind(('127.0.0.1', 0)); server.listen()\n"
      "client = socket.create_connection(server.getsockname()); ours, _ = server.accept()\n"
      "got = []; signal.signal(signal.SIGURG, lambda number, _: got.append(number))\n"
      "fcntl.fcntl(ours, fcntl.F_SETOWN, os.getpid())\n"
      "def owner(fd): return struct.unpack('ii', fcntl.fcntl(fd, 16, bytes(8)))\n"  // F_GETOWN_EX
      "thread, _ = os.pipe(); fcntl.fcntl(thread, 15, struct.pack('ii', 0, os.getpid()))\n"
      "chosen, _ = os.pipe(); fcntl.fcntl(chosen, 10, 45)\n"  // F_SETSIG
      "def told(): return owner(ours), owner(thread), [fcntl.fcntl(fd, 11) for fd in (thread, "
      "chosen)]\n"
      "before = told()",
      "assert told() == before, (told(), before)\n"
      "client.send(b'!', socket.MSG_OOB); time.sleep(0.1); assert got == [signal.SIGURG]");
  receiver.take();
  receiver.check_runs_again();
}

TEST_CASE("a watched file that is gone, and events that were not read, are said to be missing") {
  const TempDir directory;
  std::filesystem::create_directory(directory / "watched");
  Running python = start_python(
      "import ctypes, sys\n"
      "libc = ctypes.CDLL(None); fd = libc.inotify_init1(0)\n"
      "libc.inotify_add_watch(fd, sys.argv[1].encode(), 0x100); open(sys.argv[1] + '/x', 'w')\n"
      "print('ready', flush=True); sys.stdin.readline()\n",
      {directory / "watched"});
  const Result captured = snapgdb({"capture", std::to_string(python.pid()), "-o",
                                   directory / "image", "--kill", "--all-memory"});
  INFO(captured);
  CHECK(contains(captured.err, "which cannot be read without taking them away"));
  python.wait();
  std::filesystem::remove_all(directory / "watched");
  const Result refused = snapgdb({"restore", directory / "image"});
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, "watched: No such file or directory"));
}

}  // namespace
}  // namespace snapgdb::e2e
