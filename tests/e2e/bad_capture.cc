// What cannot be captured, and where an image cannot be written: one clear line, the right exit
// status, nothing left behind, and the tree alive.

#include <fmt/format.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "tests/e2e/harness.h"

namespace snapgdb::e2e {
namespace {

bool is_root() {
  return geteuid() == 0;
}

// A capture that must be refused, into a directory that must stay empty.
void check_capture_refused(const std::string& pid, int status, const Words& parts,
                           RunOptions options = {}) {
  const TempDir directory;
  options.directory = directory.path();
  std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  check_refused(snapgdb({"capture", pid, "-o", "image.snapgdb"}, options), status, parts);
  CHECK(directory.names().empty());
}

std::string a_free_pid() {
  pid_t pid = 30000;
  while (kill(pid, 0) == 0 || errno != ESRCH) --pid;
  return std::to_string(pid);
}

TEST_CASE("a pid that does not exist is refused") {
  const std::string pid = a_free_pid();
  check_capture_refused(pid, 1, {pid, "no such process"});
}

TEST_CASE("what is no pid at all is wrong usage") {
  for (const char* pid : {"0", "-1", "init", "99999999999", "", "12.5"}) {
    CAPTURE(pid);
    const TempDir directory;
    const Result result =
        snapgdb({"capture", pid, "-o", "image.snapgdb"}, {.directory = directory.path()});
    INFO(result);
    CHECK(result.status == 2);
    CHECK(result.err.starts_with("snapgdb: "));
    CHECK(directory.names().empty());
  }
}

TEST_CASE("wrong options and missing arguments are wrong usage") {
  const std::vector<Words> commands{{"capture"},
                                    {"capture", "1", "--frobnicate"},

                                    {"show"},
                                    {"run"},
                                    {"run", "-o", "image"},
                                    {"core"},
                                    {"verify"},
                                    {"bt"},
                                    {"serve"},
                                    {"debug"},
                                    {"show", "x", "nosection"},
                                    {"capture", "1", "--stop", "--kill"}};
  for (const Words& command : commands) {
    const Result result = snapgdb(command);
    INFO(result);
    CHECK(result.status == 2);
    CHECK(result.out.empty());
    CHECK(lines_of(result.err).size() == 1);
    CHECK(result.err.starts_with("snapgdb: "));
  }
}

TEST_CASE("a process of another user is refused") {
  if (skip_unless(is_root(), "to have a process of another user, one must be root")) return;
  Target target("zombies");
  check_capture_refused(std::to_string(target.pid()), 1,
                        {std::to_string(target.pid()), "belongs to user 0"}, {.user = kNobody});
  CHECK(target.finish().ok());
}

TEST_CASE("a thread is asked, and whole, where there is no room to ask its process") {
  const TempDir directory;
  Target target("timers", {"--timers", "700"});
  const std::string image = directory / "image.snapgdb";
  const Result result = snapgdb({"capture", std::to_string(target.pid()), "-o", image});
  INFO(result);
  CHECK(contains(result.err, "signal actions and timers of"));
  CHECK(contains(result.err, "little room on its stack"));
  CHECK_FALSE(contains(result.err, "registers"));
  const Result stacks = snapgdb({"bt", image});
  INFO(stacks);
  CHECK(contains(stacks.out, "target::wait_for_end"));
  CHECK(target.finish().ok());
}

TEST_CASE("a kernel thread is refused") {
  const bool there =
      std::filesystem::exists("/proc/2/comm") && read_file("/proc/2/comm") == "kthreadd\n";
  if (skip_unless(there, "no kernel threads are visible here")) return;
  check_capture_refused("2", 1, {"2", "kernel"});
}

TEST_CASE("a process that is being traced is refused, and the tracer is named") {
  Target target("zombies");
  REQUIRE(ptrace(PTRACE_SEIZE, target.pid(), 0, 0) == 0);
  check_capture_refused(std::to_string(target.pid()), 1,
                        {std::to_string(target.pid()), std::to_string(getpid()), "traced"});
  REQUIRE(ptrace(PTRACE_INTERRUPT, target.pid(), 0, 0) == 0);
  REQUIRE(waitpid(target.pid(), nullptr, 0) == target.pid());
  REQUIRE(ptrace(PTRACE_DETACH, target.pid(), 0, 0) == 0);
  CHECK(target.finish().ok());
}

TEST_CASE("a traced process somewhere in the tree is refused, and the rest runs on") {
  Target target("witness");
  const pid_t traced = target.processes().back();
  REQUIRE(ptrace(PTRACE_SEIZE, traced, 0, 0) == 0);
  check_capture_refused(std::to_string(target.pid()), 1,
                        {std::to_string(traced), std::to_string(getpid())});
  REQUIRE(ptrace(PTRACE_INTERRUPT, traced, 0, 0) == 0);
  REQUIRE(waitpid(traced, nullptr, __WALL) == traced);
  REQUIRE(ptrace(PTRACE_DETACH, traced, 0, 0) == 0);
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("a zombie is refused") {
  Running program({"true"});
  while (state_of(program.pid()) != 'Z') usleep(1000);
  check_capture_refused(std::to_string(program.pid()), 1,
                        {std::to_string(program.pid()), "zombie"});
}

TEST_CASE("a tree that snapgdb itself belongs to is refused") {
  const TempDir directory;
  // The shell is the root, snapgdb its child: $$ is the shell's pid.
  const Result result = run({"sh", "-c", program() + " capture $$ -o image; echo status $?"},
                            {.directory = directory.path()});
  INFO(result);
  CHECK(result.out == "status 1\n");
  CHECK(lines_of(result.err).size() == 1);
  CHECK(result.err.starts_with("snapgdb: "));
  CHECK(contains(result.err, "itself"));
  CHECK(directory.names().empty());
}

TEST_CASE("processes and threads that come and go are no obstacle") {
  const TempDir directory;
  Target target("forker");
  for (int round = 0; round < 20; ++round) {
    const Result result = snapgdb({"capture", std::to_string(target.pid()), "-o", directory / "i"});
    INFO("round " << round << "\n" << result);
    CHECK(result.status == 0);
    CHECK(snapgdb({"show", directory / "i", "tree"}).ok());
    if (round % 5 == 0) CHECK(snapgdb({"verify", directory / "i"}).ok());
  }
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("a program that ends while it is captured gives an image or a clear error") {
  const TempDir directory;
  for (int round = 0; round < 30; ++round) {
    Running program({"sh", "-c", fmt::format("sleep 0.0{:02}; exit 7", round)});
    const Result result =
        snapgdb({"capture", std::to_string(program.pid()), "-o", directory / "image"});
    INFO("round " << round << "\n" << result);
    CHECK((result.status == 0 || result.status == 1 || result.status == 3));
    if (result.status == 1) {
      CHECK(lines_of(result.err).size() == 1);
      CHECK(directory.names().empty());
    } else {
      CHECK(snapgdb({"verify", directory / "image"}).ok());
    }
    CHECK(program.wait().status == 7);
    std::filesystem::remove(directory / "image");
  }
}

// ---- Where the image goes --------------------------------------------------------------------

TEST_CASE("a directory that does not exist is refused") {
  Target target("zombies");
  const Result result =
      snapgdb({"capture", std::to_string(target.pid()), "-o", "/nonexistent/x.snapgdb"});
  check_refused(result, 1, {"/nonexistent/x.snapgdb", "No such file or directory"});
  CHECK(target.finish().ok());
}

TEST_CASE("a directory that cannot be written to is refused") {
  if (skip_unless(is_root(), "to run as another user, one must be root")) return;
  const TempDir directory;
  Target target("zombies", {}, {.user = kNobody});
  const Result result = snapgdb(
      {"capture", std::to_string(target.pid()), "-o", directory / "x.snapgdb"}, {.user = kNobody});
  check_refused(result, 1, {directory / "x.snapgdb", "Permission denied"});
  CHECK(directory.names().empty());
  CHECK(target.finish().ok());
}

TEST_CASE("a directory as the image's name is refused") {
  const TempDir directory;
  Target target("zombies");
  check_refused(snapgdb({"capture", std::to_string(target.pid()), "-o", directory.path()}), 1,
                {directory.path(), "directory"});
  CHECK(directory.names().empty());
  CHECK(target.finish().ok());
}

TEST_CASE("a full disk is said, leaves nothing behind, and hurts nobody") {
  if (skip_unless(is_root(), "to mount a small file system, one must be root")) return;
  const TempDir directory;
  Target target("witness");
  // In a mount namespace of its own, so that nothing is left to be unmounted.
  const std::string script = fmt::format(
      "mount -t tmpfs -o size=1m none {0} && echo old > {0}/old.snapgdb && "
      "{1} capture {2} -o {0}/old.snapgdb; echo status $?; ls -A {0}; cat {0}/old.snapgdb",
      directory.path(), program(), target.pid());
  const Result result = run({"unshare", "-m", "sh", "-c", script});
  INFO(result);
  CHECK(result.out == "status 1\nold.snapgdb\nold\n");
  CHECK(lines_of(result.err).size() == 1);
  CHECK(result.err.starts_with("snapgdb: "));
  CHECK(contains(result.err, "No space left on device"));
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("a device that is full is said, and stays a device") {
  if (skip_unless(is_root(), "to make a device, one must be root")) return;
  const TempDir directory;
  const std::string device = directory / "full";
  if (skip_unless(mknod(device.c_str(), S_IFCHR | 0666, makedev(1, 7)) == 0, "no devices here")) {
    return;
  }
  Target target("zombies");
  check_refused(snapgdb({"capture", std::to_string(target.pid()), "-o", device}), 1,
                {device, "No space left on device"});
  CHECK(directory.names() == Words{"full"});
  CHECK(std::filesystem::is_character_file(device));
  CHECK(target.finish().ok());
}

TEST_CASE("a limit on the size of files is said like a full disk") {
  const TempDir directory;
  Target target("zombies");
  const Result result =
      run({"sh", "-c",
           fmt::format("ulimit -f 100; exec {} capture {} -o image", program(), target.pid())},
          {.directory = directory.path()});
  check_refused(result, 1, {"image", "File too large"});
  CHECK(directory.names().empty());
  CHECK(target.finish().ok());
}

TEST_CASE("a reader of the stream that goes away is an error, and hurts nobody") {
  Target target("witness");
  const Result result = run({"bash", "-c",
                             fmt::format("{} capture {} -o - | head -c 1000 >/dev/null; "
                                         "echo status ${{PIPESTATUS[0]}}",
                                         program(), target.pid())});
  INFO(result);
  CHECK(result.out == "status 1\n");
  CHECK(lines_of(result.err).size() == 1);
  CHECK(contains(result.err, "Broken pipe"));
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("a process that waits for a file system that does not answer is named, and unharmed") {
  if (skip_unless(is_root() && access("/dev/fuse", R_OK | W_OK) == 0, "root and /dev/fuse")) return;
  Target target("unanswered");
  const std::string child = std::to_string(target.processes().at(0));
  check_capture_refused(child, 1,
                        {"cannot stop task " + child, "it sleeps uninterruptibly", "try again"});
  CHECK(state_of(target.processes().at(0)) == 'D');
  CHECK(contains(read_file(fmt::format("/proc/{}/status", child)), "TracerPid:\t0\n"));
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

// ---- Being ended -----------------------------------------------------------------------------

// snapgdb is killed at many moments of a capture; the tree must not notice.
void check_survives(int signal) {
  const TempDir directory;
  Target target("witness");
  for (int round = 0; round < 12; ++round) {
    Running capture(
        {program(), "capture", std::to_string(target.pid()), "-o", directory / "image"});
    usleep(round * 7000);
    ::kill(capture.pid(), signal);
    const Result result = capture.wait();
    INFO("round " << round << "\n" << result);
    CHECK((result.signal == signal || result.status >= 0));
  }
  for (const std::string& name : directory.names()) CHECK(name == "image");
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("the tree runs on when snapgdb is interrupted") {
  check_survives(SIGINT);
}
TEST_CASE("the tree runs on when snapgdb is killed") {
  check_survives(SIGKILL);
}

TEST_CASE("a kind that a restore cannot go without is wrong usage") {
  for (const char* kind : {"bogus", "socket,bogus"})
    check_refused(snapgdb({"restore", "x", "--without", kind}), 2, {"--without", "bogus"});
  check_refused(snapgdb({"restore", "x", "--without", "socket,memory,system-v"}), 1, {"x"});
}

}  // namespace
}  // namespace snapgdb::e2e
