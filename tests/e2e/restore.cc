// snapgdb restore: trees that go on from their snapshot, and check themselves.

#include <fmt/format.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

// Fields of /proc/PID/stat behind the name: state, parent, group, session.
Words stat_of(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  std::istringstream rest(text.substr(std::min(text.rfind(')') + 1, text.size())));
  Words words(4);
  for (std::string& word : words) rest >> word;
  return words;
}

// ---- What comes back ----------------------------------------------------------------------------

TEST_CASE("processes, threads, registers, memory and descriptors are as they were") {
  if (skip_unless(geteuid() == 0, "shows itself by the same process numbers as root only")) return;
  const TempDir directory;
  Target witness("witness");
  std::ofstream(witness.scratch() + "/restored").put('\n');
  take_away(witness.running(), directory / "image");
  const Result end = run_again(directory / "image");
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("a tree is restored as often as one likes") {
  const TempDir directory;
  Target crowd("crowd", {"--processes", "6", "--threads", "3"});
  take_away(crowd.running(), directory / "image");
  for (int round = 0; round < 10; ++round) {
    CAPTURE(round);
    const Result end = run_again(directory / "image");
    INFO(end);
    CHECK(end.ok());
  }
}

// Somebody has that number every now and then, for a moment.
class Rival {
 public:
  explicit Rival(pid_t number) : pid_(fork()) {
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    clone_args wanted{};
    wanted.exit_signal = SIGCHLD;
    wanted.set_tid = reinterpret_cast<uintptr_t>(&number), wanted.set_tid_size = 1;
    while (true) {
      const long child = syscall(SYS_clone3, &wanted, sizeof wanted);
      usleep(500);
      if (child == 0) _exit(0);
      if (child > 0) waitpid(static_cast<pid_t>(child), nullptr, 0);
      usleep(3000);
    }
  }
  Rival(const Rival&) = delete;
  Rival& operator=(const Rival&) = delete;
  ~Rival() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

 private:
  pid_t pid_;
};

TEST_CASE("a tree is restored also where somebody takes one of its numbers meanwhile") {
  if (skip_unless(geteuid() == 0, "only root gives old numbers")) return;
  const TempDir directory;
  Target crowd("crowd", {"--processes", "6"});
  const std::vector<pid_t> tree = tree_of(crowd.pid());
  take_away(crowd.running(), directory / "image");
  for (const pid_t number : {tree.front(), tree.back()}) {
    const Rival rival(number);
    for (int round = 0; round < 15; ++round) {
      CAPTURE(number == tree.front(), round);
      const Result end = run_again(directory / "image");
      INFO(end);
      CHECK(end.ok());
    }
  }
}

TEST_CASE("memory holds what it held, also what a program had written a moment before") {
  const TempDir directory;
  Target busy("busy", {"--mib", "40"});
  take_away(busy.running(), directory / "image");
  const Result end = run_again(directory / "image");
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("an ordinary user restores a tree, twice, while it runs itself") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  const TempDir directory;
  std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Target busy("busy", {"--mib", "8"}, {.user = kNobody});
  capture(busy.pid(), directory / "image", {}, {.user = kNobody});
  Running first({program(), "restore", directory / "image"},
                {.input = RunOptions::kPipe, .user = kNobody});
  const Result second = run_again(directory / "image", {}, {.user = kNobody});
  INFO(second);
  CHECK(second.ok());
  first.close_input();
  const Result end = first.wait();
  INFO(end);
  CHECK(end.ok());
  CHECK(busy.finish().ok());
}

TEST_CASE("a pipeline goes on, with what was in its pipe") {
  const TempDir directory;
  Running shell({"bash", "-c",
                 "echo ready; { echo one; echo two; sleep 2; echo three; } | { sleep 2; cat; }; "
                 "exit 7"});
  shell.wait_for_line("ready");
  usleep(500'000);
  take_away(shell, directory / "image");
  for (int round = 0; round < 2; ++round) {
    const Result end = run_again(directory / "image");
    INFO(end);
    CHECK(end.status == 7);
    CHECK(end.out == "one\ntwo\nthree\n");
  }
}

TEST_CASE("sessions, groups and parents are as they were") {
  if (skip_unless(geteuid() == 0, "only root may choose process numbers here")) return;
  const TempDir directory;
  Running shell(
      {"bash", "-c",
       "set -m; sleep 500 & setsid --fork sleep 500; (sleep 500; true) & echo ready; wait"});
  shell.wait_for_line("ready");
  usleep(200'000);
  const std::vector<pid_t> pids = tree_of(shell.pid());
  std::map<pid_t, Words> before;
  for (const pid_t pid : pids) before[pid] = stat_of(pid);
  REQUIRE(before.size() >= 3);
  take_away(shell, directory / "image");

  const Result restored = snapgdb({"restore", "--detach", directory / "image"});
  INFO(restored);
  REQUIRE(restored.ok());
  CHECK(restored.out == fmt::format("{}\n", pids.front()));
  before[pids.front()][1] = stat_of(pids.front())[1];  // its parent is another one
  for (const auto& [pid, stat] : before) CHECK(stat_of(pid) == stat);
  for (const pid_t pid : pids) kill(pid, SIGKILL);
  for (const pid_t pid : pids) await_end(pid);
}

TEST_CASE("a tree that is left to itself does not end with the process group of its restore") {
  const TempDir directory;
  Running sleeper({"sleep", "500"});
  usleep(100'000);
  take_away(sleeper, directory / "image");
  // With numbers of its own, it ends with the process that keeps it.
  Running restore({program(), "restore", "--isolated", "--detach", directory / "image", "--scratch",
                   directory / "scratch"});
  const Result restored = restore.wait();
  INFO(restored);
  REQUIRE((restored.status == 0 || restored.status == 3));
  const pid_t pid = std::stoi(restored.out);
  kill(-restore.pid(), SIGKILL);
  usleep(200'000);
  CHECK(stat_of(pid).at(0) == "S");
  kill(pid, SIGKILL);
  await_end(pid);
}

TEST_CASE("a memfd has its content and its seals, an eventfd its count, a pipe its size") {
  const TempDir directory;
  Running python(
      {"python3", "-c",
       "import fcntl, mmap, os\n"
       "m = os.memfd_create('sealed', os.MFD_ALLOW_SEALING); os.write(m, b'x' * 5000)\n"
       "view = mmap.mmap(m, 5000, mmap.MAP_SHARED, mmap.PROT_READ)\n"
       "fcntl.fcntl(m, 1033, 2 | 4 | 16)  # F_ADD_SEALS: SHRINK, GROW, FUTURE_WRITE\n"
       "e = os.eventfd(0); os.eventfd_write(e, 2**63); r, w = os.pipe()\n"
       "fcntl.fcntl(w, 1031, 1 << 18); os.write(w, b'y' * 100000)\n"
       "print('ready', flush=True); input()\n"
       "print(fcntl.fcntl(m, 1034), os.lseek(m, 0, 1), os.fstat(m).st_size, view[:] == b'x' * "
       "5000)\n"
       "print(os.eventfd_read(e) == 2**63, fcntl.fcntl(r, 1032), len(os.read(r, 1 << 20)))\n"},
      {.input = RunOptions::kPipe});
  python.wait_for_line("ready");
  take_away(python, directory / "image");
  Running restored({program(), "restore", directory / "image"}, {.input = RunOptions::kPipe});
  restored.write("\n");
  const Result end = restored.wait();
  INFO(end);
  CHECK(end.out == "22 5000 5000 True\nTrue 262144 100000\n");
}

// ---- How it runs --------------------------------------------------------------------------------

TEST_CASE("a restored program's signals are those that snapgdb gets, and so is its end") {
  const TempDir directory;
  Running sleeper({"sleep", "1000"});
  usleep(200'000);
  take_away(sleeper, directory / "image");
  Running restored({program(), "restore", directory / "image"});
  usleep(700'000);
  REQUIRE(kill(restored.pid(), SIGTERM) == 0);
  const Result end = restored.wait();
  INFO(end);
  CHECK(end.signal == SIGTERM);
}

TEST_CASE("a restored program has the terminal of who restores it, and its ^C") {
  // As a part of its shell's group, and as a job of its own. script(1) gives a terminal.
  for (const char* shell : {"sh -c", "bash --norc -ic"}) {
    CAPTURE(shell);
    const TempDir directory;
    write_file(directory / "program",
               "import os, sys\n"
               "print('ready', os.getpid(), flush=True); input()\n"
               "print('has it:', os.isatty(0), os.isatty(1), os.tcgetpgrp(0) == os.getpgrp(),"
               " flush=True)\n"
               "input()\n");
    const auto in_terminal = [&](const std::string& command) {
      return Running({"script", "-qec", command, "/dev/null"}, {.input = RunOptions::kPipe});
    };
    Running before =
        in_terminal(fmt::format("{} 'python3 {}; true'", shell, directory / "program"));
    const pid_t pid = std::stoi(before.wait_for_line("ready ").substr(6));
    capture(pid, directory / "image", {"--kill", "--all-memory"});
    before.close_input();
    before.wait();

    Running restored = in_terminal(program() + " restore " + (directory / "image"));
    restored.write("\n");
    INFO(restored.out());
    CHECK(restored.wait_for_line("has it:").starts_with("has it: True True True"));
    restored.write("\x03");
    const Result end = restored.wait();
    INFO(end);
    CHECK(contains(end.out, "KeyboardInterrupt"));
    CHECK(end.status == 128 + SIGINT);
  }
}

TEST_CASE("clocks go on from where they were, and timers with the time they had left") {
  const TempDir directory;
  Running python({"python3", "-c",
                  "import signal, time\n"
                  "signal.signal(signal.SIGALRM, lambda *_: None)\n"
                  "begin = time.monotonic(); signal.setitimer(signal.ITIMER_REAL, 3)\n"
                  "print('ready', flush=True); signal.pause()\n"
                  "print('slept', time.monotonic() - begin)"});
  python.wait_for_line("ready");
  usleep(200'000);
  take_away(python, directory / "image");
  usleep(4'000'000);
  const Result end = run_again(directory / "image");
  INFO(end);
  REQUIRE(end.ok());
  const double slept = std::stod(end.out.substr(end.out.find(' ')));
  CHECK(slept >= 2.999);
  // Were the clock to go on meanwhile, it would be more than 6.
  CHECK(slept < 5.5);
}

TEST_CASE("a dry run says what would be done, and does nothing") {
  const TempDir directory;
  Target crowd("crowd", {"--processes", "3", "--threads", "2"});
  take_away(crowd.running(), directory / "image");
  const Result result = snapgdb({"restore", "--dry-run", directory / "image"});
  INFO(result);
  CHECK(result.ok());
  CHECK(contains(result.out, fmt::format("process {} is born\n", crowd.pid())));
  CHECK(contains(result.out, fmt::format("a child of {}\n", crowd.pid())));
  CHECK_FALSE(exists(crowd.pid()));
}

// ---- When it cannot -----------------------------------------------------------------------------

TEST_CASE("all that is in the way is said, and nothing is begun") {
  const TempDir directory;
  Target descriptors("descriptors");
  capture(descriptors.pid(), directory / "image", {"--kill"});
  descriptors.running().wait();
  const Result result = snapgdb({"restore", directory / "image"});
  INFO(result);
  CHECK(result.status == 1);
  for (const char* part : {"--without socket", "--without other", "things are in the way"})
    CHECK(contains(result.err, part));
  CHECK_FALSE(exists(descriptors.pid()));
}

TEST_CASE("memory that is not in the image is in the way, unless one goes without it") {
  const TempDir directory;
  Running python({"python3", "-c",
                  "import mmap\nm = mmap.mmap(-1, 8192, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
                  "m.write(b'secret'); m.madvise(mmap.MADV_DONTDUMP)\n"
                  "print('ready', flush=True); input()\n"},
                 {.input = RunOptions::kPipe});
  python.wait_for_line("ready");
  capture(python.pid(), directory / "image", {"--kill"});
  python.wait();
  const Result refused = snapgdb({"restore", directory / "image"});
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, "--all-memory"));
  const Result without = snapgdb({"restore", directory / "image", "--without", "memory"});
  INFO(without);
  CHECK(contains(without.err, "reads as zeros"));
  CHECK(contains(without.err, "EOFError"));  // it went on, and its input is at an end
}

TEST_CASE("a restore that is killed leaves nothing behind") {
  if (skip_unless(geteuid() == 0, "shows itself by the same process numbers as root only")) return;
  const TempDir directory;
  Target crowd("crowd", {"--processes", "10", "--threads", "3"});
  const std::vector<pid_t> pids = tree_of(crowd.pid());
  take_away(crowd.running(), directory / "image");
  check_killed_at_any_moment({program(), "restore", directory / "image"}, 25, 60'000, pids);
}

}  // namespace
}  // namespace snapgdb::e2e
