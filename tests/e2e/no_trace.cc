// No trace: whatever moment snapgdb is killed at, the tree goes on as if there had been nothing,
// and nothing of snapgdb's is left. The sentinel checks itself; here is looked at what it cannot
// see.
//
// $SNAPGDB_KILLS and $SNAPGDB_SEED change how often and when snapgdb is killed.

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <random>
#include <set>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "tests/e2e/harness.h"

namespace snapgdb::e2e {
namespace {

using Clock = std::chrono::steady_clock;
using Microseconds = std::chrono::microseconds;
namespace fs = std::filesystem;

uint64_t from_environment(const char* name, uint64_t otherwise) {
  const char* text = getenv(name);
  return text ? parse_number<uint64_t>(text).value_or(otherwise) : otherwise;
}

struct ProcessLine {
  pid_t pid = 0, parent = 0, session = 0;
};

// Of everything that /proc lists, threads and zombies too.
std::vector<ProcessLine> all_processes() {
  std::vector<ProcessLine> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const auto pid = parse_number<pid_t>(entry.path().filename().string());
    if (!pid) continue;
    try {
      const std::string stat = read_file(entry.path() / "stat");
      ProcessLine line{*pid};
      if (sscanf(stat.c_str() + stat.rfind(')'), ") %*c %d %*d %d", &line.parent, &line.session) ==
          2)
        found.push_back(line);
    } catch (const Error&) {
      // It is gone.
    }
  }
  return found;
}

// A sentinel, and what is known of it from outside.
class Watched {
 public:
  explicit Watched(RunOptions options = {}) : target_("sentinel", {}, std::move(options)) {
    // The children that it has later on come and go; these stay.
    for (const pid_t pid : target_.processes()) known_.insert(pid);
    for (const std::string& line : target_.said("process"))
      if (line.ends_with(" parent")) parent_ = std::stoi(line);
    for (const ProcessLine& process : all_processes())
      if (known_.contains(process.parent) && process.parent != parent_) known_.insert(process.pid);
  }

  pid_t pid() const { return target_.pid(); }

  // Asks every process of it whether all is as it was.
  void check() {
    target_.running().write("\n");
    const std::string start = fmt::format("checked {} ", ++checks_);
    CHECK(target_.running().wait_for_line(start) == start + "whole");
    CHECK(strangers() == std::set<pid_t>{});
  }

  void finish() {
    const Result end = target_.finish();
    INFO(end);
    CHECK(end.ok());
    CHECK(end.err.empty());
  }

 private:
  // Processes of the sentinel's session that it has not started, or of ours that nobody has, once
  // those that are about to go have gone.
  std::set<pid_t> strangers() const {
    std::set<pid_t> left = strangers_now();
    for (int tries = 0; tries < 2000 && !left.empty(); ++tries) {
      usleep(1000);
      std::set<pid_t> still = strangers_now();
      std::erase_if(left, [&](pid_t pid) { return !still.contains(pid); });
    }
    return left;
  }

  std::set<pid_t> strangers_now() const {
    std::set<pid_t> strangers;
    for (const ProcessLine& process : all_processes())
      if ((process.session == pid() || process.parent == getpid()) &&
          !known_.contains(process.pid) && process.parent != parent_)
        strangers.insert(process.pid);
    return strangers;
  }

  Target target_;
  std::set<pid_t> known_;
  pid_t parent_ = 0;
  unsigned checks_ = 0;
};

struct Scene {
  explicit Scene(std::optional<uid_t> as_user = {}) : user(as_user), watched({.user = as_user}) {
    if (user) REQUIRE(chown(directory.path().c_str(), *user, *user) == 0);
  }

  Words command() const {
    return {program(), "capture", std::to_string(watched.pid()), "-o", directory / "image"};
  }

  void capture() const {
    const Result result = run(command(), {.user = user});
    INFO(result);
    // Something may be missing: what only root may read, or registers of a parent in vfork(2).
    CHECK((result.status == 0 || result.status == 3));
  }

  // The median: a slow one would let most kills come too late.
  Microseconds duration_of_a_capture() const {
    std::array<Microseconds, 5> durations;
    for (Microseconds& duration : durations) {
      const auto begin = Clock::now();
      capture();
      duration = std::chrono::duration_cast<Microseconds>(Clock::now() - begin);
    }
    std::ranges::sort(durations);
    return durations[durations.size() / 2];
  }

  // Whether it was still at work.
  bool capture_killed_after(Microseconds time) const {
    Running capturing(command(), {.user = user});
    usleep(static_cast<useconds_t>(time.count()));
    ::kill(capturing.pid(), SIGKILL);
    const Result result = capturing.wait();
    INFO(result);
    CHECK((result.signal == SIGKILL || result.status == 0 || result.status == 3));
    return result.signal == SIGKILL;
  }

  std::optional<uid_t> user;
  TempDir directory;
  Watched watched;
};

void check_survives_kills(Scene& scene, uint64_t kills) {
  const uint64_t seed = from_environment("SNAPGDB_SEED", std::random_device()());
  const Microseconds duration = scene.duration_of_a_capture();
  scene.watched.check();
  INFO("SNAPGDB_SEED=" << seed << " over " << duration.count() << " us");
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<int64_t> moment(0, duration.count());
  uint64_t in_time = 0;
  for (uint64_t i = 0; i < kills; ++i) {
    const Microseconds after(moment(random));
    INFO("kill " << i << " after " << after.count() << " us");
    in_time += scene.capture_killed_after(after);
    if (i % 10 == 9) scene.watched.check();
  }
  std::cout << fmt::format("{} of {} captures of {} ms killed at work, SNAPGDB_SEED={}\n", in_time,
                           kills, duration.count() / 1000, seed);
  for (const std::string& name : scene.directory.names()) CHECK(name == "image");
  scene.watched.check();
  scene.watched.finish();
}

TEST_CASE("a tree is whole although snapgdb was killed at 500 random moments") {
  Scene scene;
  check_survives_kills(scene, from_environment("SNAPGDB_KILLS", 500));
}

TEST_CASE("a tree is whole although an ordinary user's snapgdb was killed at random moments") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  Scene scene(kNobody);
  check_survives_kills(scene, from_environment("SNAPGDB_KILLS", 500) / 20);
}

// At its first call of that name, at its second, …: until it makes no more and is done.
void capture_killed_at_each(const std::string& name, pid_t pid, const std::string& image) {
  bool is_done = false;
  for (int call = 1; !is_done; ++call) {
    CAPTURE(name, call);
    REQUIRE(call < 2000);
    is_done = run({"strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + name, "-e",
                   fmt::format("inject={}:signal=SIGKILL:when={}", name, call), program(),
                   "capture", std::to_string(pid), "-o", image})
                  .ok();
  }
}

// What random moments meet once in thousands: the time between two of these calls is short.
TEST_CASE("a program is whole although snapgdb was killed at each step that it took in it") {
  if (skip_unless(installed("strace"), "strace(1) kills it there")) return;
  const TempDir directory;
  Target target("witness", {"--alone"});
  for (const std::string name : {"ptrace", "process_vm_writev"})
    capture_killed_at_each(name, target.pid(), directory / "image");
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("a tree is whole after a dozen captures") {
  Scene scene;
  for (int i = 0; i < 12; ++i) {
    scene.capture();
    if (i % 5 == 0) scene.watched.check();
  }
  scene.watched.check();
  scene.watched.finish();
}

TEST_CASE("a parent that sleeps in vfork is captured, and what cannot be known of it is said") {
  const TempDir directory;
  Target target("vforker");
  const std::string image = directory / "image";
  const Result result = snapgdb({"capture", std::to_string(target.pid()), "-o", image});
  INFO(result);
  CHECK(result.status == 3);
  CHECK(contains(result.err, fmt::format("{}", target.pid())));
  CHECK(contains(result.err, "it waits in vfork(2)"));
  for (const Words& command : std::vector<Words>{{"verify", image},
                                                 {"show", image, "threads"},
                                                 {"bt", image},
                                                 {"core", image, "-o", directory / "cores"}}) {
    const Result looked_at = snapgdb(command);
    INFO(looked_at);
    CHECK((looked_at.status == 0 || looked_at.status == 3));
  }
  CHECK(state_of(target.pid()) == 'D');
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

// ---- Blocking calls: a capture is no rougher than SIGSTOP and SIGCONT -------------------------

using Outcomes = std::map<std::string, std::string>;

// What each blocking call of the target gave that was disturbed once while it blocked.
Outcomes outcomes_after(const std::function<void(pid_t)>& disturb) {
  Target target("syscalls", {"--once", "--round", "3000"});
  disturb(target.pid());
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
  Outcomes outcomes;
  for (const std::string& line : target.said("outcome"))
    outcomes[line.substr(0, line.find(':'))] = line.substr(line.find(':'));
  return outcomes;
}

TEST_CASE("blocking calls go on after a capture as after SIGSTOP and SIGCONT") {
  const TempDir directory;
  const Outcomes left_alone = outcomes_after([](pid_t) {});
  const Outcomes stopped = outcomes_after([](pid_t pid) {
    stop({pid});
    resume({pid});
  });
  const Outcomes captured = outcomes_after([&](pid_t pid) { capture(pid, directory / "image"); });
  CHECK(left_alone.size() > 30);
  for (const auto& [call, outcome] : left_alone) {
    const auto of_this_call = [&call](const Outcomes& outcomes) {
      const auto found = outcomes.find(call);
      return found == outcomes.end() ? "none" : found->second;
    };
    const std::string as_stopped = of_this_call(stopped), as_captured = of_this_call(captured);
    CAPTURE(call, outcome, as_stopped, as_captured);
    CHECK((as_captured == outcome || as_captured == as_stopped));
  }
}

}  // namespace
}  // namespace snapgdb::e2e
