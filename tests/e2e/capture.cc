// Taking snapshots: where they go, and that what was photographed never notices.

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <thread>

#include "tests/e2e/harness.h"

namespace snapgdb::e2e {
namespace {

std::string of(const Target& target) {
  return std::to_string(target.pid());
}

void check_whole(const std::string& image) {
  const Result result = snapgdb({"verify", image});
  INFO(result);
  CHECK(result.ok());
}

void check_ends_well(Target& target) {
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("an image is whole, and its owner's alone, whatever the umask") {
  const TempDir directory;
  Target target("zombies");
  const Result result = snapgdb({"capture", of(target), "-o", directory / "x.snapgdb"},
                                {.before_exec = [] { umask(0); }});
  INFO(result);
  CHECK(result.status == 0);
  struct stat info {};
  REQUIRE(stat((directory / "x.snapgdb").c_str(), &info) == 0);
  CHECK((info.st_mode & 07777) == 0600);
  CHECK(directory.names() == Words{"x.snapgdb"});
  check_whole(directory / "x.snapgdb");
  check_ends_well(target);
}

TEST_CASE("without -o the image is called NAME-PID.snapgdb, and the name is said") {
  const TempDir directory;
  Target target("zombies");
  const Result result = snapgdb({"capture", of(target)}, {.directory = directory.path()});
  INFO(result);
  const std::string name = "zombies-" + of(target) + ".snapgdb";
  CHECK(result.out == name + "\n");
  CHECK(directory.names() == Words{name});
  check_ends_well(target);
}

TEST_CASE("an image that is there already is replaced as a whole") {
  const TempDir directory;
  Target target("zombies");
  write_file(directory / "x.snapgdb", "old");
  capture(target.pid(), directory / "x.snapgdb");
  check_whole(directory / "x.snapgdb");
  CHECK(directory.names() == Words{"x.snapgdb"});
  check_ends_well(target);
}

TEST_CASE("an image goes down a pipe and can be read from one") {
  const TempDir directory;
  Target target("witness", {"--alone"});
  const Result result =
      run({"bash", "-o", "pipefail", "-c",
           fmt::format("{0} capture {1} -o - | cat > x.snapgdb && cat x.snapgdb | {0} verify - && "
                       "cat x.snapgdb | {0} show - tree",
                       program(), of(target))},
          {.directory = directory.path()});
  INFO(result);
  CHECK(result.status == 0);
  CHECK(contains(result.out, "witness"));
  check_whole(directory / "x.snapgdb");
  CHECK(snapgdb({"bt", directory / "x.snapgdb"}).ok());
  check_ends_well(target);
}

TEST_CASE("a FIFO as the image's name is written to, not replaced") {
  const TempDir directory;
  REQUIRE(mkfifo((directory / "fifo").c_str(), 0600) == 0);
  Target target("zombies");
  Running reader({"sh", "-c", "cat fifo > copy"}, {.directory = directory.path()});
  capture(target.pid(), directory / "fifo");
  CHECK(reader.wait().ok());
  check_whole(directory / "copy");
  CHECK(std::filesystem::is_fifo(directory / "fifo"));
  check_ends_well(target);
}

TEST_CASE("messages go to standard error, and a pipe gets no progress display") {
  const TempDir directory;
  Target target("zombies");
  const Result result = snapgdb({"capture", of(target), "-o", directory / "x.snapgdb"});
  CHECK_FALSE(contains(result.err, "\r"));
  CHECK_FALSE(contains(result.err, "\x1b"));
  CHECK(result.out == directory / "x.snapgdb\n");
  check_ends_well(target);
}

// Bytes that a capture takes at most.
uint64_t peak_memory(const Words& command) {
  const pid_t pid = fork();
  if (pid == 0) {
    std::vector<const char*> arguments;
    for (const std::string& word : command) arguments.push_back(word.c_str());
    arguments.push_back(nullptr);
    dup2(open("/dev/null", O_WRONLY), STDOUT_FILENO);
    execv(arguments[0], const_cast<char**>(arguments.data()));
    _exit(127);
  }
  int status = -1;
  rusage usage{};
  wait4(pid, &status, 0, &usage);
  CHECK(status == 0);
  return static_cast<uint64_t>(usage.ru_maxrss) << 10;
}

// Of a program that can be copied while it runs, and of one that writes faster than that.
TEST_CASE("snapgdb needs little memory, however much its target has") {
  constexpr uint64_t kLimit = uint64_t{200} << 20;
  for (const char* rate : {"20000", "max"}) {
    const TempDir directory;
    Target target("busy", {"--mib", "512", "--rate", rate});
    for (const Words& options : {Words{}, Words{"--level", "0"}}) {
      Words command{program(), "capture", of(target), "-o", directory / "image"};
      command.insert(command.end(), options.begin(), options.end());
      CHECK(peak_memory(command) < kLimit);
    }
    check_ends_well(target);
  }
}

// ---- What becomes of the tree ----------------------------------------------------------------

struct Disturbed {
  const char* target;
  Words arguments;
  int pause_ms;  // between captures
};

// Ten captures, after which the target checks itself: values, registers, blocked calls, remaining
// times, descriptors, mappings, children, signals.
void check_unnoticed(const Disturbed& what) {
  const TempDir directory;
  Target target(what.target, what.arguments);
  for (int i = 0; i < 10; ++i) {
    capture(target.pid(), directory / "image");
    usleep(what.pause_ms * 1000);
  }
  check_whole(directory / "image");
  check_ends_well(target);
}

TEST_CASE("processes, threads and memory do not notice ten captures") {
  check_unnoticed({"witness", {}, 0});
}
TEST_CASE("a static program does not notice ten captures") {
  check_unnoticed({"witness-static", {}, 0});
}
TEST_CASE("descriptors of every kind do not notice ten captures") {
  check_unnoticed({"descriptors", {}, 0});
}
TEST_CASE("System V objects do not notice ten captures") {
  check_unnoticed({"system_v", {}, 0});
}
TEST_CASE("blocked system calls do not notice ten captures") {
  check_unnoticed({"syscalls", {"--round", "1000"}, 230});
}
TEST_CASE("zombies, orphans and stopped processes do not notice ten captures") {
  check_unnoticed({"zombies", {}, 0});
}
TEST_CASE("a program that writes all the time does not notice ten captures") {
  check_unnoticed({"busy", {"--mib", "32", "--rate", "max"}, 20});
}

TEST_CASE("a program that maps and unmaps all the time does not notice ten captures") {
  check_unnoticed({"mapper", {}, 0});
  check_unnoticed({"mapper", {"--move"}, 0});  // mremap(2), which fails on a mapping that is split
}

TEST_CASE("a captured tree can be captured by two at once") {
  const TempDir directory;
  Target target("zombies");
  Running one({program(), "capture", of(target), "-o", directory / "one"});
  Running two({program(), "capture", of(target), "-o", directory / "two"});
  const Result first = one.wait(), second = two.wait();
  INFO(first << second);
  // Whoever comes second finds a traced process, and says so, or comes after the first one's end.
  CHECK((first.ok() || second.ok()));
  for (const Result& result : {first, second}) {
    if (!result.ok()) check_refused(result, 1, {"traced"});
  }
  check_ends_well(target);
}

TEST_CASE("capture --stop leaves every process stopped, to be set going by SIGCONT") {
  const TempDir directory;
  Target target("witness", {"--may-be-stopped"});
  capture(target.pid(), directory / "image", {"--stop"});
  for (const pid_t pid : target.processes()) CHECK(state_of(pid) == 'T');
  resume(target.processes());
  check_ends_well(target);
}

TEST_CASE("a tree that was stopped before stays stopped") {
  const TempDir directory;
  Target target("witness", {"--may-be-stopped"});
  stop(target.processes());
  for (int i = 0; i < 3; ++i) capture(target.pid(), directory / "image");
  for (const pid_t pid : target.processes()) CHECK(state_of(pid) == 'T');
  resume(target.processes());
  check_ends_well(target);
}

// Children that never let go of a processor.
class Hogs {
 public:
  explicit Hogs(unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
      pids_.push_back(fork());
      if (pids_.back() != 0) continue;
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (volatile unsigned spins = 0;;) spins = spins + 1;
    }
  }
  ~Hogs() {
    for (const pid_t pid : pids_) ::kill(pid, SIGKILL), waitpid(pid, nullptr, 0);
  }
  Hogs(const Hogs&) = delete;
  Hogs& operator=(const Hogs&) = delete;

 private:
  std::vector<pid_t> pids_;
};

// They run when nobody else wants to.
void make_idle(const Target& target) {
  for (const std::string& line : target.said("thread")) {
    const sched_param parameters{};
    const pid_t tid = std::stoi(line.substr(line.find(' ')));
    CHECK(sched_setscheduler(tid, SCHED_IDLE, &parameters) == 0);
  }
}

TEST_CASE("calls go on of a tree that was stopped before, when its threads get to run again") {
  const TempDir directory;
  const Hogs hogs(2 * std::thread::hardware_concurrency());
  for (int i = 0; i < 2; ++i) {
    Target target("witness", {"--may-be-stopped"});
    stop(target.processes());
    capture(target.pid(), directory / "image");
    make_idle(target);
    resume(target.processes());
    check_ends_well(target);
  }
}

TEST_CASE("capture --kill kills every process once the image is whole") {
  const TempDir directory;
  Target target("witness");
  const auto processes = target.processes();
  capture(target.pid(), directory / "image", {"--kill"});
  CHECK(target.running().wait().signal == SIGKILL);
  for (const pid_t pid : processes) {
    INFO(pid << " is in state " << state_of(pid));
    CHECK((state_of(pid) == 0 || state_of(pid) == 'Z'));
  }
  check_whole(directory / "image");
}

TEST_CASE("capture --kill kills nobody if the image cannot be written") {
  Target target("witness");
  const Result result = snapgdb({"capture", of(target), "--kill", "-o", "/nonexistent/image"});
  CHECK(result.status == 1);
  check_ends_well(target);
}

TEST_CASE("memory that forks inherit at one time and not at another is in the image") {
  const TempDir directory;
  Target target("busy", {"--mib", "32", "--rate", "max", "--fickle"});
  for (int round = 0; round < 12; ++round) {
    const Result result = snapgdb({"capture", of(target), "-o", directory / "image"});
    INFO(result);
    CHECK(result.status == 0);
  }
  check_ends_well(target);
}

// For targets of an ordinary user, and images of theirs.
struct OrdinaryUser {
  OrdinaryUser() { REQUIRE(chown(directory.path().c_str(), kNobody, kNobody) == 0); }
  Result capture(const Target& target) const {
    return snapgdb({"capture", of(target), "-o", directory / "image"}, {.user = kNobody});
  }
  TempDir directory;
};

TEST_CASE("an ordinary user captures their own processes") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  const std::vector<Words> programs{
      {"witness", "--alone"}, {"descriptors"}, {"syscalls"}, {"zombies"}};
  for (const Words& program : programs) {
    const OrdinaryUser user;
    Target target(program[0], Words(program.begin() + 1, program.end()), {.user = kNobody});
    const Result result = user.capture(target);
    INFO(result);
    CHECK(result.status == 0);
    check_whole(user.directory / "image");
    check_ends_well(target);
  }
}

TEST_CASE("an ordinary user's image has the memory that nobody has mapped in, too") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  const OrdinaryUser user;
  // The children share memory with the root that they have never touched.
  Target target("witness", {}, {.user = kNobody});
  const Result result = user.capture(target);
  INFO(result);
  CHECK(result.status == 0);
  const Result missing = snapgdb({"show", user.directory / "image", "missing"});
  INFO(missing);
  CHECK(missing.out.empty());
  check_whole(user.directory / "image");
  check_ends_well(target);
}

TEST_CASE("debug information that lies beside the program is in the image") {
  if (skip_unless(installed("objcopy"), "there is no objcopy")) return;
  for (const char* place : {"x.debug", ".debug/x.debug"}) {
    CAPTURE(place);
    const TempDir directory;
    const std::string program = directory / "sentinel", debug = directory / place;
    std::filesystem::copy_file(target_path("sentinel"), program);
    std::filesystem::create_directories(std::filesystem::path(debug).parent_path());
    REQUIRE(run({"objcopy", "--only-keep-debug", program, debug}).ok());
    REQUIRE(run({"objcopy", "--strip-debug", "--remove-section=.note.gnu.build-id",
                 "--add-gnu-debuglink=" + debug, program})
                .ok());
    Target target = Target::at(program);
    const std::string image = directory / "x.snapgdb";
    REQUIRE(snapgdb({"capture", std::to_string(target.pid()), "-o", image}).ok());
    target.running().kill();
    std::filesystem::remove(debug);
    check_says(snapgdb({"show", image, "files"}), {debug});
    check_says(gdb({"target remote | " + e2e::program() + " " + image, "info line main"}),
               {"starts at address"});
  }
}

}  // namespace
}  // namespace snapgdb::e2e
