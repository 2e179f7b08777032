#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <iosfwd>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/fd.h"

// Real programs under the test's control: started, talked to, and gone when their scope ends.
namespace snapgdb::e2e {

using Words = std::vector<std::string>;
using Seconds = std::chrono::seconds;

// A limit for what must not hang, generous since machines differ: no test measures time by it.
constexpr Seconds kPatience{120};

// The snapgdb under test: the one just built, or another that $SNAPGDB_PROGRAM names.
std::string program();
std::string target_path(const std::string& name);  // a program of tests/targets
std::string script_path(const std::string& name);  // a file beside these tests

// A directory of its own, removed with everything in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  Words names() const;  // sorted, everything directly in it

 private:
  std::string path_;
};

std::string read_file(const std::string& path);
void write_file(const std::string& path, const std::string& content);
// The lines of `text`, without their ends.
Words lines_of(const std::string& text);

// How a program ended, and what it said.
struct Result {
  Words command;
  int status = -1;  // exit status, or -1
  int signal = 0;   // that killed it, or 0
  bool timed_out = false;
  std::string out, err;

  bool ok() const { return status == 0; }
};
std::ostream& operator<<(std::ostream& stream, const Result& result);
// Each of them, on one of its streams.
void check_says(const Result& result, const Words& parts);

struct RunOptions {
  enum Input { kNothing, kPipe };  // /dev/null, or a pipe that Running holds
  Input input = kNothing;
  std::string directory = {};                           // to run in; "" for the current one
  std::map<std::string, std::string> environment = {};  // on top of the inherited one
  std::optional<uid_t> user = {};                       // as which to run (needs root)
  std::function<void()> before_exec = {};               // in the child
};

// A program that was started. Its output is kept in memory files, so that it never blocks.
class Running {
 public:
  Running(Words command, RunOptions options = {});
  ~Running();  // kills it and everything it has started
  Running(Running&&) noexcept;

  pid_t pid() const { return pid_; }
  std::string out() const;
  std::string err() const;
  void write(const std::string& text);
  void close_input() { input_.reset(); }
  // Waits until standard output has a line that starts with `start`, and returns the line.
  std::string wait_for_line(const std::string& start);
  bool exited() const;
  void kill() const;  // it and everything below it
  // Waits for the end, which a program that is still there after `patience` does not survive.
  Result wait(Seconds patience = kPatience);

 private:
  void start(const RunOptions& options);

  Words command_;
  pid_t pid_ = -1;
  std::optional<Result> result_;
  Fd input_, out_, err_, pidfd_;
};

Result run(Words command, RunOptions options = {}, Seconds patience = kPatience);
Result snapgdb(Words arguments, RunOptions options = {});
// gdb -batch with each command in turn, without the user's settings and without the network.
Result gdb(const Words& commands, const Words& arguments = {}, RunOptions options = {});

// $PATH, and the places of servers, which need not be in it.
std::string search_path();
bool installed(const std::string& name);
// A port that was free a moment ago.
int free_port();

// A program of tests/targets that has said "ready".
class Target {
 public:
  explicit Target(const std::string& name, const Words& arguments = {}, RunOptions options = {});
  // The same from a given path: for copies of it.
  static Target at(const std::string& path, const Words& arguments = {}, RunOptions options = {});

  pid_t pid() const { return running_.pid(); }
  Running& running() { return running_; }
  // What it said of itself before "ready": the rest of each line that starts with `word`.
  Words said(const std::string& word) const;
  std::vector<pid_t> processes() const;  // from its "process PID NAME" lines
  std::string scratch() const;           // its TMPDIR
  // Ends it; its own check is its exit status, what differs is in err.
  Result finish();

 private:
  Target(Words command, RunOptions options, const TempDir*);
  std::unique_ptr<TempDir> scratch_;  // its TMPDIR
  Running running_;
};

// Stops or continues all processes by a signal, and waits until they are.
void stop(const std::vector<pid_t>& processes);
void resume(const std::vector<pid_t>& processes);
// The letter of /proc/PID/stat, or 0 if there is no such process.
char state_of(pid_t pid);
std::vector<pid_t> children_of(pid_t pid);

// Captures into `image`, which must work: without loss if root does it, otherwise with that of what
// only root may read.
void capture(pid_t pid, const std::string& image, const Words& options = {}, RunOptions run = {});

// Checks that a command said one line on standard error, "snapgdb: …" with each of `parts` in it,
// ended with `status`, and said nothing else.
void check_refused(const Result& result, int status, const Words& parts);
bool contains(const std::string& text, const std::string& part);

// Says why a test is skipped, once: if (skip_unless(geteuid() == 0, "needs root")) return;
bool skip_unless(bool possible, const std::string& reason);

constexpr uid_t kNobody = 65534;

}  // namespace snapgdb::e2e
