// snapgdb restore: what descriptors of small programs lead to, where it is not what it seems.

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "core/base/strings.h"
#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

TEST_CASE("what waits in a pipe on standard input, whose writer has ended, is read") {
  TakenPython reader(
      "r, w = os.pipe(); os.write(w, b'hello'); os.close(w); os.dup2(r, 0); os.close(r)",
      "assert os.read(0, 100) == b'hello'; assert os.read(0, 100) == b''");
  reader.take();
  reader.check_runs_again();
}

TEST_CASE("a pipe on standard output, whose reader has ended, is broken still") {
  TakenPython writer(
      "said = os.dup(1)\n"
      "r, w = os.pipe(); os.close(r); os.dup2(w, 1); os.close(w)\n"
      "signal.signal(signal.SIGPIPE, signal.SIG_IGN)",
      "try: os.write(1, b'x'); os._exit(7)\n"
      "except BrokenPipeError: os._exit(0)");
  writer.take();
  writer.check_runs_again();
}

TEST_CASE("a FIFO on standard input, whose other end is in the tree, connects the two") {
  TakenPython reader(
      "name = directory + '/fifo'; os.mkfifo(name)\n"
      "child = os.fork()\n"
      "if child == 0:\n"
      "  w = os.open(name, os.O_WRONLY); wait(); os.write(w, b'through'); os._exit(0)\n"
      "r = os.open(name, os.O_RDONLY); os.dup2(r, 0); os.close(r)",
      "assert os.read(0, 100) == b'through'; assert os.read(0, 100) == b''\n"
      "assert os.waitpid(child, 0)[1] == 0");
  reader.take();
  reader.check_runs_again();
}

TEST_CASE("an output from outside that is somebody's standard output is that of the restore") {
  TakenPython first(
      "os.dup2(1, 3); said = 3\n"
      "null = os.open('/dev/null', os.O_WRONLY); os.dup2(null, 1)\n"
      "child = os.fork()\n"
      "if child == 0: os.dup2(3, 1); os.close(3); wait(); os.write(1, b'child\\n'); os._exit(0)",
      "os.waitpid(child, 0); os.write(3, b'first\\n')");
  first.take();
  for (const Words& how : {Words{}, Words{"--isolated"}}) {
    CAPTURE(how);
    check_says(run_again(first.image, how), {"child", "first"});
  }
}

TEST_CASE("a memfd that is read as standard input has what it had") {
  TakenPython reader(
      "m = os.memfd_create('in'); os.write(m, b'hello'); os.lseek(m, 1, 0); os.dup2(m, 0)\n"
      "os.close(m)",
      "assert os.read(0, 100) == b'ello'");
  reader.take();
  reader.check_runs_again();
}

constexpr const char* kHidden =
    "name = directory + '/covered'; os.mkdir(name); open(name + '/file', 'w').write('below')\n"
    "file = os.open(name + '/file', os.O_RDONLY); below = os.open(name, os.O_RDONLY)\n"
    "assert libc.mount(b'none', name.encode(), b'tmpfs', 0, None) == 0\n"
    "open(name + '/file', 'w').write('above')";

constexpr const char* kIsTheHidden =
    "assert os.read(file, 100) == b'below'; assert os.listdir(below) == ['file']\n"
    "assert open('file', opener=lambda n, f: os.open(n, f, dir_fd=below)).read() == 'below'\n"
    "assert open(name + '/file').read() == 'above'";

TEST_CASE("a file that a mount hides is the one below the mount") {
  if (skip_unless(geteuid() == 0, "mounting takes root")) return;
  const OwnMounts mounts;
  {
    TakenPython reader(kHidden, kIsTheHidden);
    reader.take();
    const Result plain = run_again(reader.image);
    INFO(plain);
    CHECK(plain.ok());
    check_says(run_again(reader.image, {"--isolated"}), {"/covered/file: No such file"});
    umount2((reader.directory / "covered").c_str(), MNT_DETACH);
  }
}

constexpr const char* kOwnMounts =
    "assert libc.unshare(0x20000) == 0\n"
    "assert libc.mount(b'none', b'/', None, 0x44000, None) == 0\n";

TEST_CASE("so is one that a mount of the tree's own hides") {
  if (skip_unless(geteuid() == 0, "mounting takes root")) return;
  TakenPython reader(std::string(kOwnMounts) + kHidden, kIsTheHidden);
  reader.take();
  reader.check_runs_again();
}

TEST_CASE("one that a mount hides in a mount namespace below is in the way of a restore") {
  if (skip_unless(geteuid() == 0, "mounting takes root")) return;
  TakenPython reader(
      fmt::format("hide = \"\"\"{}{}\"\"\"\n"
                  "ends = os.pipe()\n"
                  "if os.fork() == 0: exec(hide); os.write(ends[1], b'.'); signal.pause()\n"
                  "os.read(ends[0], 1)",
                  kOwnMounts, kHidden),
      "");
  reader.take();
  const Result refused = run_again(reader.image);
  check_says(refused, {"/covered/file: it is in a mount namespace below"});
  CHECK(refused.status == 1);
}

// A file as a disk, for the time of a test.
class LoopDevice {
 public:
  explicit LoopDevice(const std::string& file) {
    const Result made = run({"losetup", "-f", "--show", file});
    if (made.ok()) path_ = made.out.substr(0, made.out.find('\n'));
  }
  ~LoopDevice() {
    if (!path_.empty()) run({"losetup", "-d", path_});
  }
  LoopDevice(const LoopDevice&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST_CASE("a disk is written to where the program was, and by no sandbox") {
  if (skip_unless(geteuid() == 0, "disks are root's")) return;
  const TempDir directory;
  const std::string file = directory / "disk";
  write_file(file, std::string(size_t{1} << 20, '.'));
  const LoopDevice disk(file);
  if (skip_unless(!disk.path().empty(), "there is no loop device here")) return;
  TakenPython writer("disk = os.open('" + disk.path() + "', os.O_RDWR); os.lseek(disk, 8192, 0)",
                     "os.write(disk, b'WRITTEN'); os.fsync(disk)");
  writer.take();
  const auto where = [&] { return read_file(file).find("WRITTEN"); };
  const Result isolated = run_again(writer.image, {"--isolated"});
  check_says(isolated, {"what it writes would be outside of the sandbox"});
  CHECK(where() == std::string::npos);
  const Result plain = run_again(writer.image);
  INFO(plain);
  CHECK(plain.ok());
  CHECK(where() == 8192);
}

TEST_CASE("terminals of equal number, of two file systems of terminals, are two") {
  if (skip_unless(geteuid() == 0, "mounting takes root")) return;
  const OwnMounts mounts;
  TakenPython both(
      "pairs = []\n"
      "for name in [directory + '/a', directory + '/b']:\n"
      "  os.mkdir(name)\n"
      "  assert libc.mount(b'devpts', name.encode(), b'devpts', 0, b'newinstance,ptmxmode=666') == "
      "0\n"
      "  master = os.open(name + '/ptmx', os.O_RDWR | os.O_NOCTTY)\n"
      "  fcntl.ioctl(master, 0x40045431, struct.pack('i', 0))\n"  // TIOCSPTLCK
      "  pairs.append((master, os.open(name + '/0', os.O_RDWR | os.O_NOCTTY)))",
      "for i, (master, slave) in enumerate(pairs): os.write(slave, b'%d' % i)\n"
      "for i, (master, slave) in enumerate(pairs): assert os.read(master, 100) == b'%d' % i");
  both.take();
  both.check_runs_again();
  for (const char* name : {"a", "b"}) umount2((both.directory / name).c_str(), MNT_DETACH);
}

TEST_CASE("the master of a terminal that is in a message is received, and leads to its slave") {
  TakenPython sender(
      "import pty\n"
      "master, slave = pty.openpty()\n"
      "a, b = socket.socketpair(); socket.send_fds(a, [b'x'], [master]); os.close(master)",
      "_, (master,), _, _ = socket.recv_fds(b, 10, 1)\n"
      "os.write(slave, b'hello'); assert os.read(master, 100) == b'hello'");
  sender.take();
  sender.check_runs_again();
}

constexpr const char* kLateInMessages =
    "opened = {'pidfd': os.pidfd_open(os.getpid()), 'stat': os.open('/proc/self/stat', "
    "os.O_RDONLY),\n"
    "  'proc': os.open('/proc/self', os.O_RDONLY), 'net': os.open('/proc/self/ns/net', "
    "os.O_RDONLY)}\n"
    "held = {}\n"
    "for name, fd in opened.items():\n"
    "  for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET:\n"
    "    for closed in False, True:\n"
    "      a, b = socket.socketpair(socket.AF_UNIX, kind)\n"
    "      a.send(b'first'); socket.send_fds(a, [b'then'], [fd]); a.send(b'last')\n"
    "      held[name, kind, closed] = b, None if closed else a\n"
    "      if closed: a.close()\n"
    "  os.close(fd)";
constexpr const char* kLateFound =
    "def check(name, fd):\n"
    "  if name == 'pidfd': signal.pidfd_send_signal(fd, 0)\n"
    "  if name == 'stat': assert int(os.pread(fd, 99, 0).split()[0]) == os.getpid()\n"
    "  if name == 'proc': assert 'maps' in os.listdir(fd)\n"
    "  if name == 'net': assert os.fstat(fd).st_ino == os.stat('/proc/self/ns/net').st_ino\n"
    "for (name, kind, closed), (b, a) in held.items():\n"
    "  assert b.recv(5) == b'first', (name, kind, closed)\n"
    "  text, (fd,), _, _ = socket.recv_fds(b, 4, 1); assert text == b'then'; check(name, fd)\n"
    "  assert b.recv(9) == b'last'\n"
    "  if closed and kind != socket.SOCK_DGRAM: assert b.recv(9) == b''\n"
    "  if a: a.send(b'more'); assert b.recv(9) == b'more'";

TEST_CASE("what tells of the tree's processes does so also if only a message holds it") {
  TakenPython holder(kLateInMessages, kLateFound);
  holder.take();
  holder.check_runs_again();
}

TEST_CASE("so it does for an ordinary user") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  TakenPython holder(kLateInMessages, kLateFound, {.user = kNobody});
  holder.take({.user = kNobody});
  holder.check_runs_again({.user = kNobody});
}

TEST_CASE("a descriptor in a message that cannot wait for it is said to be lost") {
  TakenPython holder(
      "r = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); r.bind(directory + '/name')\n"
      "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind(directory + '/other')\n"
      "fd = os.pidfd_open(os.getpid())\n"
      "s.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack('i', fd))], 0,\n"
      "          directory + '/name')\n"
      "os.close(fd)",
      "_, (fd,), _, _ = socket.recv_fds(r, 9, 1)\n"
      "assert os.readlink(f'/proc/self/fd/{fd}').startswith('socket:')");
  holder.take();
  check_says(run_again(holder.image),
             {"a descriptor in a message, ", "fails as a lost connection"});
  holder.check_runs_again();
}

TEST_CASE("a directory that is read by name goes on behind the names that were read") {
  const auto read_on = [](const RunOptions& options) {
    TakenPython reader(
        "os.mkdir(directory + '/many')\n"
        "for i in range(200): open(directory + f'/many/{i}', 'w').close()\n"
        "many = os.open(directory + '/many', os.O_RDONLY)\n"
        "block = ctypes.create_string_buffer(1000)\n"
        "def names():\n"
        "  size = libc.syscall(217, many, block, 1000); at = 0\n"  // getdents64
        "  while at < size:\n"
        "    length = struct.unpack_from('H', block.raw, at + 16)[0]\n"
        "    yield block.raw[at + 19:at + length].split(b'\\0')[0]; at += length\n"
        "seen = list(names()); file = os.open(directory + '/many/0', os.O_RDWR)",
        "while more := list(names()): seen += more\n"
        "assert len(seen) == len(set(seen)) == 202, len(seen)",
        options);
    reader.take(options);
    reader.check_runs_again(options);
  };
  read_on({});
  if (geteuid() == 0) read_on({.user = kNobody});
}

TEST_CASE("a file that never had a name can be given one") {
  TakenPython maker(
      "file = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600); os.write(file, b'hello')\n"
      "name = (directory + '/name').encode()\n"
      "def name_it(): return libc.linkat(-100, b'/proc/self/fd/%d' % file, -100, name, 0x400)",
      "if os.path.exists(name): os.unlink(name)\n"
      "assert name_it() == 0, ctypes.get_errno()\n"
      "assert open(name).read() == 'hello'");
  maker.take();
  maker.check_runs_again();
}

TEST_CASE("a removed file has its extended attributes") {
  TakenPython holder(
      "file = os.open(directory + '/file', os.O_CREAT | os.O_RDWR)\n"
      "try: os.setxattr(file, 'user.word', b'hello')\n"
      "except OSError: pass\n"  // not in every file system
      "os.unlink(directory + '/file'); there = os.listxattr(file)",
      "assert os.listxattr(file) == there, os.listxattr(file)\n"
      "if there: assert os.getxattr(file, 'user.word') == b'hello'");
  holder.take();
  holder.check_runs_again();
}

TEST_CASE("a removed file that was opened without following links has what it had") {
  TakenPython holder(
      "name = directory + '/file'\n"
      "file = os.open(name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDWR, 0o600)\n"
      "os.unlink(name); os.write(file, b'hello')",
      "assert os.write(file, b', you') == 5\n"
      "assert os.pread(file, 99, 0) == b'hello, you', os.pread(file, 99, 0)");
  holder.take();
  holder.check_runs_again();
}

TEST_CASE("a trigger of pressure that cannot be made again does not wake the program for ever") {
  if (skip_unless(access("/proc/pressure/memory", W_OK) == 0, "there is no /proc/pressure here"))
    return;
  TakenPython waiter(
      "trigger = os.open('/proc/pressure/memory', os.O_RDWR | os.O_NONBLOCK)\n"
      "os.write(trigger, b'some 500000 2000000\\0')",
      "poll = select.poll(); poll.register(trigger, select.POLLPRI)\n"
      "assert poll.poll(50) == [], poll.poll(0)");
  waiter.take();
  check_says(run_again(waiter.image), {"it is told of nothing"});
  waiter.check_runs_again();
}

TEST_CASE("a reader of the kernel's log goes on behind what is there") {
  if (skip_unless(access("/dev/kmsg", R_OK) == 0 && geteuid() == 0, "/dev/kmsg cannot be read"))
    return;
  // Others may write to it meanwhile: but not so much.
  TakenPython reader(
      "log = os.open('/dev/kmsg', os.O_RDONLY | os.O_NONBLOCK)\n"
      "def left():\n"
      "  count = 0\n"
      "  while True:\n"
      "    try: os.read(log, 8192); count += 1\n"
      "    except BlockingIOError: return count\n"
      "    except BrokenPipeError: pass\n"
      "there = left()",
      "assert left() <= there / 2");
  reader.take();
  const Result plain = run_again(reader.image);
  check_says(plain, {"it goes on behind the messages"});
  CHECK(plain.ok());
}

TEST_CASE("names that were opened only as such lead where they led") {
  TakenPython names(
      "os.mkfifo(directory + '/fifo')\n"
      "s = socket.socket(socket.AF_UNIX); s.bind(directory + '/socket')\n"
      "flags = os.O_PATH\n"
      "opened = {name: os.open(directory + '/' + name, flags) for name in ['fifo', 'socket']}",
      "for name, fd in opened.items():\n"
      "  assert os.fstat(fd).st_mode == os.stat(directory + '/' + name).st_mode\n"
      "  assert os.readlink(f'/proc/self/fd/{fd}') == directory + '/' + name");
  names.take();
  names.check_runs_again();
}

TEST_CASE("a user with many pipes has them twice") {
  if (skip_unless(geteuid() == 0, "to become another user, one must be root")) return;
  constexpr uid_t kSomebody = 54'322;
  TakenPython many("pipes = [os.pipe() for _ in range(700)]",
                   "for r, w in pipes: os.write(w, b'x'); assert os.read(r, 1) == b'x'",
                   {.user = kSomebody});
  capture(many.running.pid(), many.image, {"--all-memory"}, {.user = kSomebody});
  // While the first ones are there.
  const Result again =
      run({program(), "restore", "--isolated", "--detach", many.image}, {.user = kSomebody});
  INFO(again);
  CHECK((again.ok() || again.status == 3));  // 3: as described in what it says
  const auto restored = parse_number<pid_t>(trim(again.out));
  REQUIRE(restored);
  ::kill(*restored, SIGKILL);
  await_end(*restored);
  write_file(many.directory / "go", "");
  CHECK(many.running.wait().ok());
}

}  // namespace
}  // namespace snapgdb::e2e
