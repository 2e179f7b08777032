#include "tests/e2e/restoring.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

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

void take_away(Running& program, const std::string& image) {
  const std::vector<pid_t> pids = tree_of(program.pid());
  capture(program.pid(), image, {"--kill", "--all-memory"});
  CHECK(program.wait().signal == SIGKILL);
  for (const pid_t pid : pids) await_end(pid);
}

Result run_again(const std::string& image, const Words& options, RunOptions run) {
  Words command{program(), "restore", image};
  command.insert(command.end(), options.begin(), options.end());
  run.input = RunOptions::kPipe;
  Running restored(command, std::move(run));
  restored.close_input();
  return restored.wait();
}

}  // namespace snapgdb::e2e
