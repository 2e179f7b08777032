#pragma once

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <string>

#include "tests/e2e/harness.h"
#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {

inline std::string connect_to(const std::string& image) {
  return "target remote | " + program() + " " + image;
}

// A program of tests/targets/debuggee.cc, captured just before its deed, for gdb to make it run.
struct Moment {
  explicit Moment(const std::string& deed, const RunOptions& options = {})
      : target("debuggee", {"--do", deed}, options) {
    if (options.user) REQUIRE(chown(directory.path().c_str(), *options.user, *options.user) == 0);
    capture(target.pid(), image, {}, {.user = options.user});
  }

  std::string connect() const { return connect_to(image); }
  // gdb, connected, lets the deed begin with the first command that runs anything.
  Result gdb_says(Words commands, RunOptions options = {}) const {
    commands.insert(commands.begin(), {connect(), "set var go = 1"});
    return gdb(commands, {}, std::move(options));
  }

  TempDir directory;
  std::string image = directory / "image.snapgdb";
  Target target;
};

// gdb as an IDE talks to it, in non-stop mode.
struct FrontEnd {
  // `how`: "remote" or "extended-remote".
  FrontEnd(const std::string& how, const Moment& moment) {
    says("1-gdb-set mi-async on", "1^done");
    says("2-gdb-set non-stop on", "2^done");
    says("3-target-select " + how + " | " + program() + " " + moment.image, "3^connected");
    says("4-gdb-set var go = 1", "4^done");
  }
  // `command` begins with a token, which comes back with its answer.
  void says(const std::string& command, const std::string& answer) {
    CAPTURE(command);
    gdb.write(command + "\n");
    gdb.wait_for_line(answer);
  }

  Running gdb{{"gdb", "-nx", "-q", "--interpreter=mi3"}, {.input = RunOptions::kPipe}};
};

inline void check_succeeds(const Result& result, const Words& parts) {
  INFO(result);
  CHECK(result.ok());
  check_says(result, parts);
}

// Ours and those below, orphans included.
inline size_t processes_there() {
  const auto lives = [](pid_t pid) { return state_of(pid) != 'Z'; };
  return static_cast<size_t>(std::ranges::count_if(tree_of(getpid()), lives));
}

inline void await_processes(size_t wanted) {
  for (int i = 0; i < 5000 && processes_there() > wanted; ++i) usleep(1000);
  CHECK(processes_there() == wanted);
}

inline void await_listening(const Running& server) {
  for (int i = 0; i < 30000 && !contains(server.err(), "listening"); ++i) usleep(2000);
}

// Natively, watchpoints would stop nobody.
inline bool can_watch_natively() {
  return !contains(snapgdb({"doctor"}).out, "debug registers stop nobody");
}

// From a thread of gdb's own python, as a terminal would.
inline const std::string kInterruptSoon =
    "python import os, signal, threading; "
    "threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()";

}  // namespace snapgdb::e2e
