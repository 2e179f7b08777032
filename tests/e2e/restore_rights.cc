// snapgdb restore: what goes by rights, limits and who shares what, of small programs.

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

TEST_CASE("secure bits are what they were, with their locks") {
  if (skip_unless(geteuid() == 0, "secure bits take root")) return;
  constexpr const char* kAfter = "assert libc.prctl(27) == bits, libc.prctl(27)";
  TakenPython own("bits = 0x1\nassert libc.prctl(28, bits, 0, 0, 0) == 0", kAfter);
  own.take();
  own.check_runs_again();
  // All of them, as another user who keeps capabilities.
  TakenPython others(
      "bits = 0x2f\nassert libc.prctl(28, bits, 0, 0, 0) == 0\n"
      "assert libc.setresgid(65534, 65534, 65534) == 0\n"
      "assert libc.setresuid(65534, 65534, 65534) == 0",
      kAfter);
  others.take();
  others.check_runs_again();
}

TEST_CASE("a tree has more descriptors than who restores it may have at first") {
  TakenPython many(
      "import resource\n"
      "resource.setrlimit(resource.RLIMIT_NOFILE, (2000, resource.getrlimit(7)[1]))\n"
      "pipes = [os.pipe() for _ in range(300)]",
      "assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 2000\n"
      "for read, write in pipes: os.write(write, b'x'); assert os.read(read, 1) == b'x'");
  many.take();
  many.check_runs_again({.before_exec = [] {
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = 200;
    setrlimit(RLIMIT_NOFILE, &limit);
  }});
}

TEST_CASE("a zombie that died by a signal leaves no core a second time") {
  std::string pattern;
  std::getline(std::ifstream("/proc/sys/kernel/core_pattern"), pattern);
  if (skip_unless(pattern == "core", "cores do not land in the directory here")) return;
  const RunOptions anywhere{.before_exec = [] {
    const rlimit limit{RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_CORE, &limit);
  }};
  TakenPython parent(
      "import resource, time\n"
      "child = os.fork()\n"
      "if child == 0: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.abort()\n"
      "while ' Z ' not in open(f'/proc/{child}/stat').read(): time.sleep(0.01)",
      "assert os.waitpid(child, 0)[1] == signal.SIGABRT");
  parent.take();
  const TempDir here;
  RunOptions there = anywhere;
  there.directory = here.path();
  parent.check_runs_again(there);
  CHECK(here.names().empty());
}

TEST_CASE("a foreground group whose first process has ended is in the foreground again") {
  TakenPython session(
      "import pty, time, fcntl, termios\n"
      "master, slave = pty.openpty()\n"
      "told, telling = os.pipe()\n"
      "asked, asking = os.pipe()\n"
      "leader = os.fork()\n"
      "if leader == 0:\n"
      "  os.close(asking); os.setsid(); fcntl.ioctl(slave, termios.TIOCSCTTY, 0)\n"
      "  signal.signal(signal.SIGTTOU, signal.SIG_IGN)\n"
      "  first = os.fork()\n"
      "  if first == 0: os.read(asked, 1); os._exit(0)\n"
      "  os.setpgid(first, first)\n"
      "  second = os.fork()\n"
      "  if second == 0:\n"
      "    os.setpgid(0, first); os.write(telling, b'x'); os.read(asked, 1); os._exit(0)\n"
      "  os.read(told, 1); os.tcsetpgrp(slave, first); os.kill(first, 9); os.waitpid(first, 0)\n"
      "  os.write(telling, b'x'); os.read(asked, 1)\n"
      "  os._exit(0 if os.tcgetpgrp(slave) == os.getpgid(second) == first else 7)\n"
      "os.close(asked); time.sleep(0.5)",
      "os.close(asking)\n"
      "assert os.waitstatus_to_exitcode(os.waitpid(leader, 0)[1]) == 0");
  session.take();
  const Result end = run_in_its_terminals(session.image, {}, {});
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("devices whose open files are something of their own are in the way by name") {
  struct stat status {};
  const bool is_there = stat("/dev/fuse", &status) == 0 && access("/dev/fuse", R_OK | W_OK) == 0;
  if (skip_unless(is_there, "there is no /dev/fuse, or not for us")) return;
  TakenPython holder("file = os.open('/dev/fuse', os.O_RDWR)", "");
  holder.take();
  const Result refused = run_again(holder.image);
  INFO(refused);
  CHECK(refused.status == 1);
  check_says(refused, {"/dev/fuse", "a file system in user space (fuse)"});
}

TEST_CASE("what a thread has of its own where others share is named as missing") {
  TakenPython apart(
      "def be_apart():\n"
      "  assert libc.unshare(0x200 | 0x400) == 0\n"
      "  os.chdir('/'); done.set(); end.wait()\n"
      "done, end = threading.Event(), threading.Event()\n"
      "thread = threading.Thread(target=be_apart); thread.start(); done.wait()",
      "end.set(); thread.join()");
  const Result captured =
      snapgdb({"capture", std::to_string(apart.running.pid()), "-o", apart.image, "--kill"});
  INFO(captured);
  CHECK(captured.status == 3);
  check_says(captured, {"root and working directory, umask of", "table of descriptors of"});
  apart.running.wait();
  write_file(apart.directory / "go", "");
  const Result end = run_again(apart.image);
  INFO(end);
  CHECK(end.ok());
}

// Whoever can make links must not get at what root may read.
TEST_CASE("root opens another user's file, and not what a link leads to since") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  const TempDir directory;
  std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  const std::string file = directory / "file", secret = directory / "secret";
  write_file(secret, "root's");
  REQUIRE(chmod(secret.c_str(), 0600) == 0);
  TakenPython holder("file = os.open('" + file + "', os.O_RDWR | os.O_CREAT)",
                     "os.write(file, b'x')", {.user = kNobody});
  holder.take();
  const Result end = run_again(holder.image);
  INFO(end);
  CHECK(end.ok());
  REQUIRE(unlink(file.c_str()) == 0);
  REQUIRE(symlink(secret.c_str(), file.c_str()) == 0);
  const Result refused = run_again(holder.image);
  INFO(refused);
  CHECK(refused.status == 1);
  check_says(refused, {"cannot open " + file, "Permission denied"});
  CHECK(read_file(secret) == "root's");
}

TEST_CASE("ambient capabilities are there, although no more may be raised") {
  if (skip_unless(geteuid() == 0, "secure bits take root")) return;
  TakenPython program(
      "header = struct.pack('Ii', 0x20080522, 0); sets = (ctypes.c_uint32 * 6)()\n"
      "assert libc.capget(header, sets) == 0\n"
      "sets[2] |= 1 << 10; assert libc.capset(header, sets) == 0\n"  // CAP_NET_BIND_SERVICE
      "assert libc.prctl(47, 2, 10, 0, 0) == 0\n"                    // PR_CAP_AMBIENT_RAISE
      "assert libc.prctl(28, 0xc0, 0, 0, 0) == 0",  // SECBIT_NO_CAP_AMBIENT_RAISE, and its lock
      "assert libc.prctl(27) == 0xc0 and libc.prctl(47, 1, 10, 0, 0) == 1\n"
      "assert libc.prctl(47, 2, 11, 0, 0) == -1");
  program.take();
  program.check_runs_again();
}

TEST_CASE("what others may not look into is that again, also root's") {
  if (skip_unless(geteuid() == 0, "only root may look into such a process")) return;
  TakenPython program("libc.prctl(4, 0, 0, 0, 0)",  // PR_SET_DUMPABLE
                      "assert libc.prctl(3, 0, 0, 0, 0) == 0");
  program.take();
  program.check_runs_again();
}

TEST_CASE("a thread keeps its deadlines, and one that is idle its nice value") {
  if (skip_unless(geteuid() == 0, "scheduling of such kinds takes root")) return;
  TakenPython program(
      "def policy():\n"
      "  told = ctypes.create_string_buffer(48)\n"
      "  assert libc.syscall(315, 0, told, 48, 0) == 0\n"  // sched_getattr(2)
      "  return struct.unpack('IIQiIQQQ', told.raw)\n"
      "def set_policy(kind, *times):\n"
      "  libc.syscall(314, 0, struct.pack('IIQiIQQQ', 48, kind, 0, 0, 0, *times), 0)\n"
      "def work():\n"
      "  set_policy(6, 10 ** 7, 3 * 10 ** 7, 10 ** 8)\n"  // SCHED_DEADLINE
      "  seen.append(policy()); there.set(); end.wait(); seen.append(policy())\n"
      "seen = []; there = threading.Event(); end = threading.Event()\n"
      "thread = threading.Thread(target=work); thread.start(); there.wait()\n"
      "os.setpriority(0, 0, -3); set_policy(5, 0, 0, 0)",  // SCHED_IDLE
      "end.set(); thread.join(); assert seen[0] == seen[1], seen\n"
      "assert policy()[1] == 5 and os.getpriority(0, 0) == -3");
  program.take();
  const Result plain = run_again(program.image);
  INFO(plain);
  CHECK(plain.ok());
}

TEST_CASE("more signals are pending than may be by now") {
  TakenPython program(
      "import resource\n"
      "signal.pthread_sigmask(signal.SIG_BLOCK, [40])\n"
      "for i in range(50): assert libc.sigqueue(os.getpid(), 40, ctypes.c_void_p(i)) == 0\n"
      "resource.setrlimit(resource.RLIMIT_SIGPENDING, (10, 20))",
      "count = 0\n"
      "while signal.sigtimedwait([40], 0): count += 1\n"
      "assert count == 50, count\n"
      "assert resource.getrlimit(resource.RLIMIT_SIGPENDING) == (10, 20)");
  program.take();
  program.check_runs_again();
}

TEST_CASE("it is said that nobody knows how often a timer expired while its signal waited") {
  TakenPython program(
      "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\n"
      "timer = ctypes.c_void_p(); assert libc.timer_create(1, None, ctypes.byref(timer)) == 0\n"
      "times = (ctypes.c_long * 4)(0, 10 ** 7, 0, 10 ** 7)\n"
      "assert libc.timer_settime(timer, 0, times, None) == 0\n"
      "while not signal.sigpending(): time.sleep(0.01)",
      "for i in range(3): signal.sigwaitinfo([signal.SIGALRM])");
  program.take();
  const Result end = run_again(program.image);
  CHECK(end.ok());
  check_says(end, {"how often timer 0 expired while its signal waited is lost"});
}

}  // namespace
}  // namespace snapgdb::e2e
