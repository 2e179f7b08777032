#include "tests/e2e/restoring.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <random>

namespace snapgdb::e2e {

bool exists(pid_t pid) {
  return std::filesystem::exists(fmt::format("/proc/{}", pid));
}

std::vector<pid_t> tree_of(pid_t root) {
  std::vector<pid_t> pids{root};
  for (size_t i = 0; i < pids.size(); ++i)
    for (const pid_t child : children_of(pids[i])) pids.push_back(child);
  return pids;
}

void await_end(pid_t pid) {
  for (int tries = 0; tries < 500 && exists(pid); ++tries) {
    waitpid(pid, nullptr, WNOHANG);
    usleep(10'000);
  }
  REQUIRE_FALSE(exists(pid));
}

void take_away(Running& program, const std::string& image, RunOptions options) {
  const std::vector<pid_t> pids = tree_of(program.pid());
  capture(program.pid(), image, {"--kill", "--all-memory"}, std::move(options));
  CHECK(program.wait().signal == SIGKILL);
  for (const pid_t pid : pids) await_end(pid);
}

Result run_again(const std::string& image, const Words& options, RunOptions run,
                 const std::string& input) {
  Words command{program(), "restore", image};
  command.insert(command.end(), options.begin(), options.end());
  run.input = RunOptions::kPipe;
  Running restored(command, std::move(run));
  if (!input.empty()) restored.write(input);
  restored.close_input();
  return restored.wait();
}

Result run_in_its_terminals(const std::string& image, const Words& options, const RunOptions& run) {
  Result end = run_again(image, options, run);
  for (int tries = 1; tries < 20 && met_another_terminal(end); ++tries) {
    usleep(200'000);
    end = run_again(image, options, run);
  }
  return end;
}

void check_killed_at_any_moment(const Words& command, int rounds, useconds_t longest,
                                const std::vector<pid_t>& pids) {
  std::mt19937 random(20261123);
  for (int round = 0; round < rounds; ++round) {
    CAPTURE(round);
    Running restore(command, {.input = RunOptions::kPipe});
    usleep(static_cast<useconds_t>(random() % longest));
    const std::vector<pid_t> made = tree_of(restore.pid());
    kill(restore.pid(), SIGKILL);
    restore.wait();
    // A tree that was complete lives on, and ends with its standard input.
    restore.close_input();
    for (const pid_t pid : made) await_end(pid);
    for (const pid_t pid : pids) await_end(pid);
  }
}

TakenAway::TakenAway(const std::string& name, const Words& arguments, const RunOptions& options)
    : user(options.user), target(name, arguments, options) {}

void TakenAway::take() {
  if (user) std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  std::ofstream(target.scratch() + "/restored").put('\n');
  take_away(target.running(), image, {.user = user});
}

void TakenAway::check_runs_again(const Words& options) const {
  const Result end = run_again(image, options, {.user = user});
  INFO(end);
  CHECK(end.ok());
}

namespace {

constexpr const char* kHead =
    "import ctypes, fcntl, os, select, signal, socket, struct, sys, threading, time\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "said = 1\n"
    "directory = sys.argv[1]\n"
    "def wait():\n"
    "  while not os.path.exists(directory + '/go'): time.sleep(0.01)\n";

}  // namespace

TakenPython::TakenPython(const std::string& before, const std::string& after, RunOptions options)
    : running({"python3", "-c", kHead + before + "\nos.write(said, b'ready\\n'); wait()\n" + after,
               directory.path()},
              (std::filesystem::permissions(directory.path(), std::filesystem::perms::all),
               std::move(options))) {
  running.wait_for_line("ready");
}

void TakenPython::take(RunOptions options) {
  take_away(running, image, std::move(options));
  write_file(directory / "go", "");
}

void TakenPython::check_runs_again(const RunOptions& options) const {
  for (const Words& how : {Words{}, Words{"--isolated"}}) {
    CAPTURE(how);
    const Result end = run_again(image, how, options);
    INFO(end);
    CHECK(end.ok());
  }
}

OwnMounts::OwnMounts() : before_(open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC)) {
  REQUIRE(unshare(CLONE_NEWNS) == 0);
  REQUIRE(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
}

OwnMounts::~OwnMounts() {
  const std::string here = std::filesystem::current_path();
  setns(before_.get(), CLONE_NEWNS);
  std::filesystem::current_path(here);  // it is the root's otherwise
}

OwnNetwork::OwnNetwork() : before_(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)) {
  REQUIRE(unshare(CLONE_NEWNET) == 0);
  const Fd socket(::socket(AF_INET, SOCK_DGRAM, 0));
  ifreq request{};
  request.ifr_name[0] = 'l', request.ifr_name[1] = 'o';
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  REQUIRE(ioctl(socket.get(), SIOCSIFFLAGS, &request) == 0);
}

OwnNetwork::~OwnNetwork() {
  setns(before_.get(), CLONE_NEWNET);
}

}  // namespace snapgdb::e2e
