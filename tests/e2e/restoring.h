#pragma once

#include "tests/e2e/harness.h"

namespace snapgdb::e2e {

bool exists(pid_t pid);
// A process and all below it.
std::vector<pid_t> tree_of(pid_t root);
// Orphans of a test become its children.
void await_end(pid_t pid);
// Captures, with all memory, and kills; the tree's numbers are free again afterwards.
void take_away(Running& program, const std::string& image, RunOptions options = {});
// Runs the tree to its end; its standard input is `input`, and ends.
Result run_again(const std::string& image, const Words& options = {}, RunOptions run = {},
                 const std::string& input = "");

// The same, again and again until no terminal of another test has the number of one of the tree's.
Result run_in_its_terminals(const std::string& image, const Words& options, const RunOptions& run);

// Whether a terminal of another test's had the number of one of the tree's: to be tried again.
inline bool met_another_terminal(const Result& restored) {
  return contains(restored.err, "the terminal gets another number");
}

// A program of tests/targets that is taken away, and told of it by the file "restored".
struct TakenAway {
  explicit TakenAway(const std::string& name, const Words& arguments = {},
                     const RunOptions& options = {});
  void take();
  void check_runs_again(const Words& options = {}) const;

  std::optional<uid_t> user;
  TempDir directory;
  std::string image = directory / "image";
  Target target;
};

// Python that does what comes before, says "ready" on descriptor `said`, waits until it was taken
// away, and exits with 0 if the rest holds: its standard input is its own affair.
struct TakenPython {
  TakenPython(const std::string& before, const std::string& after, RunOptions options = {});
  void take(RunOptions options = {});
  // Plainly and in isolation.
  void check_runs_again(const RunOptions& options = {}) const;

  TempDir directory;  // it knows it as `directory`
  std::string image = directory / "image";
  Running running;
};

// Kills `command`, a restore, at random moments, so often: nothing may be left behind, of the
// processes that it had made then or of `pids`. The tree ends with its standard input.
void check_killed_at_any_moment(const Words& command, int rounds, useconds_t longest,
                                const std::vector<pid_t>& pids = {});

// While it lives, this process, and who is started, have mounts of their own, as they were. Needs
// root.
class OwnMounts {
 public:
  OwnMounts();
  ~OwnMounts();
  OwnMounts(const OwnMounts&) = delete;

 private:
  Fd before_;
};

// While it lives, this process, and who is started, have a network with a loopback device only.
// Needs root.
class OwnNetwork {
 public:
  OwnNetwork();
  ~OwnNetwork();
  OwnNetwork(const OwnNetwork&) = delete;

 private:
  Fd before_;
};

}  // namespace snapgdb::e2e
