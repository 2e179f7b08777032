// `snapgdb bt` of the images that `snapgdb run` makes.

#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "tests/e2e/harness.h"
#include "tests/e2e/json.h"

namespace snapgdb::e2e {
namespace {

// The image of a crash, and what there is to read of it.
struct Crash {
  explicit Crash(const std::string& manner) {
    const Result end = snapgdb({"run", "-o", image, "--", target_path("crasher"), manner});
    INFO(end);
    const Result shown = snapgdb({"show", image, "--json"});
    REQUIRE(shown.ok());
    json = parse_json(shown.out);
  }

  std::string focus() const {
    return json_at(json, "snapshot.focus_pid") + "." + json_at(json, "snapshot.focus_tid");
  }
  Result bt(const Words& more = {}) const {
    Words words{"bt", image};
    words.insert(words.end(), more.begin(), more.end());
    return snapgdb(words);
  }

  TempDir directory;
  std::string image = directory / "image";
  Json json = nullptr;
};

TEST_CASE("the thread that crashed is named first, and its stack comes before all others") {
  const Crash crash("segv-thread");
  const Result result = crash.bt();
  INFO(result);
  CHECK(result.ok());
  const Words lines = lines_of(result.out);
  REQUIRE(lines.size() > 5);
  const std::string thread = crash.focus() + " \"crashing\"";
  CHECK(lines[0] == "SIGSEGV in " + thread);
  CHECK(lines[1].empty());
  CHECK(lines[2].starts_with("process "));
  CHECK(lines[4] == "1 thread: " + thread);
  CHECK(contains(lines[5], "crash_here"));
}

TEST_CASE(
    "the process that crashed comes before its parent, unless the image's order is asked for") {
  const Crash crash("child");
  const auto process = [&](int i) {
    return "process " + json_at(crash.json, fmt::format("processes.{}.pid", i)) + ":";
  };
  const std::string grouped = crash.bt().out, plain = crash.bt({"--no-group"}).out;
  INFO(grouped << plain);
  CHECK(grouped.starts_with("SIGSEGV in " + crash.focus()));
  CHECK(plain.starts_with("SIGSEGV in " + crash.focus()));
  CHECK(grouped.find(process(1)) < grouped.find(process(0)));
  CHECK(plain.find(process(0)) < plain.find(process(1)));
}

TEST_CASE("scripts are told which signal was about to end which thread") {
  const Crash crash("segv-thread");
  const Json json = parse_json(crash.bt({"--json"}).out);
  CHECK(json_at(json, "fatal_signal.signal") == "SIGSEGV");
  CHECK(json_at(json, "fatal_signal.pid") == json_at(crash.json, "snapshot.focus_pid"));
  CHECK(json_at(json, "fatal_signal.tid") == json_at(crash.json, "snapshot.focus_tid"));
}

TEST_CASE("nothing is said of a crash where there was none, or where it is not asked for") {
  const TempDir directory;
  const std::string image = directory / "image";
  Target target("zombies");
  capture(target.pid(), image);
  CHECK(snapgdb({"bt", image}).out.starts_with("process "));
  CHECK(json_at(parse_json(snapgdb({"bt", image, "--json"}).out), "fatal_signal") == "null");
  CHECK(target.finish().ok());

  const Crash crash("child");
  const Result parent = crash.bt({json_at(crash.json, "snapshot.root_pid")});
  INFO(parent);
  CHECK(parent.out.starts_with("process "));
}

TEST_CASE("nothing is missing from the backtrace of a program that has yet to begin") {
  const TempDir directory;
  const std::string image = directory / "image";
  REQUIRE(snapgdb({"run", "--on", "start", "--kill", "-o", image, "--", "true"}).ok());
  const Result result = snapgdb({"bt", image});
  INFO(result);
  CHECK(result.ok());
  CHECK(result.err.empty());
  CHECK(contains(result.out, "#0 "));
}

}  // namespace
}  // namespace snapgdb::e2e
