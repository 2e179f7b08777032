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

// Python that says "ready", waits for the end of its input, and exits with 0 if the rest holds.
struct Script {
  explicit Script(const std::string& before, const std::string& after, RunOptions options = {})
      : running({"python3", "-c",
                 "import ctypes, os, signal, sys, threading\n"
                 "libc = ctypes.CDLL(None, use_errno=True)\n" +
                     before + "\nprint('ready', flush=True); sys.stdin.read()\n" + after},
                with_input(std::move(options))) {
    running.wait_for_line("ready");
  }
  static RunOptions with_input(RunOptions options) {
    options.input = RunOptions::kPipe;
    return options;
  }

  TempDir directory;
  std::string image = directory / "image";
  Running running;
};

void check_runs_again(const Script& script, const RunOptions& options = {}) {
  for (const Words& how : {Words{}, Words{"--isolated"}}) {
    CAPTURE(how);
    const Result end = run_again(script.image, how, options);
    INFO(end);
    CHECK(end.ok());
  }
}

TEST_CASE("secure bits are what they were, with their locks") {
  if (skip_unless(geteuid() == 0, "secure bits take root")) return;
  constexpr const char* kAfter = "assert libc.prctl(27) == bits, libc.prctl(27)";
  Script own("bits = 0x1\nassert libc.prctl(28, bits, 0, 0, 0) == 0", kAfter);
  take_away(own.running, own.image);
  check_runs_again(own);
  // All of them, as another user who keeps capabilities.
  Script others(
      "bits = 0x2f\nassert libc.prctl(28, bits, 0, 0, 0) == 0\n"
      "assert libc.setresgid(65534, 65534, 65534) == 0\n"
      "assert libc.setresuid(65534, 65534, 65534) == 0",
      kAfter);
  take_away(others.running, others.image);
  check_runs_again(others);
}

TEST_CASE("a tree has more descriptors than who restores it may have at first") {
  Script many(
      "import resource\n"
      "resource.setrlimit(resource.RLIMIT_NOFILE, (2000, resource.getrlimit(7)[1]))\n"
      "pipes = [os.pipe() for _ in range(300)]",
      "assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 2000\n"
      "for read, write in pipes: os.write(write, b'x'); assert os.read(read, 1) == b'x'");
  take_away(many.running, many.image);
  check_runs_again(many, {.before_exec = [] {
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
  Script parent(
      "import resource, time\n"
      "child = os.fork()\n"
      "if child == 0: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.abort()\n"
      "while ' Z ' not in open(f'/proc/{child}/stat').read(): time.sleep(0.01)",
      "assert os.waitpid(child, 0)[1] == signal.SIGABRT");
  take_away(parent.running, parent.image);
  const TempDir here;
  RunOptions there = anywhere;
  there.directory = here.path();
  check_runs_again(parent, there);
  CHECK(here.names().empty());
}

TEST_CASE("a foreground group whose first process has ended is in the foreground again") {
  Script session(
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
  take_away(session.running, session.image);
  const Result end = run_in_its_terminals(session.image, {}, {});
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("devices whose open files are something of their own are in the way by name") {
  struct stat status {};
  const bool is_there = stat("/dev/fuse", &status) == 0 && access("/dev/fuse", R_OK | W_OK) == 0;
  if (skip_unless(is_there, "there is no /dev/fuse, or not for us")) return;
  Script holder("file = os.open('/dev/fuse', os.O_RDWR)", "");
  take_away(holder.running, holder.image);
  const Result refused = run_again(holder.image);
  INFO(refused);
  CHECK(refused.status == 1);
  check_says(refused, {"/dev/fuse", "a file system in user space (fuse)"});
}

TEST_CASE("what a thread has of its own where others share is named as missing") {
  Script apart(
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
  Script holder("file = os.open('" + file + "', os.O_RDWR | os.O_CREAT)", "os.write(file, b'x')",
                {.user = kNobody});
  take_away(holder.running, holder.image);
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

}  // namespace
}  // namespace snapgdb::e2e
