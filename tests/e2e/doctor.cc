#include <unistd.h>

#include <catch2/catch.hpp>

#include "harness.h"

namespace snapgdb::e2e {
namespace {

// "yes" or "no", as it stands before `what`.
std::string answer(const Result& result, const std::string& what) {
  for (const std::string& line : lines_of(result.out))
    if (line.ends_with("  " + what)) return line.substr(2, line.find(' ', 2) - 2);
  return "nothing is said of " + what;
}

}  // namespace

TEST_CASE("doctor says of an ability what capture and restore then find") {
  const Result found = snapgdb({"doctor"});
  INFO(found);
  REQUIRE(answer(found, "your own processes") == "yes");
  REQUIRE(answer(found, "process numbers as they were") == "yes");
  CHECK(found.ok());
  CHECK(found.err.empty());

  const TempDir directory;
  const Target target("witness");
  capture(target.pid(), directory / "witness.snapgdb");
  const Result shown = snapgdb({"show", directory / "witness.snapgdb"});
  INFO(shown);
  const bool copies_first = answer(found, "hardly a pause, by first copies") == "yes";
  CHECK((copies_first || !contains(shown.out, "pre-copy")));
}

TEST_CASE("doctor tells an ordinary user what takes root, and what helps") {
  if (skip_unless(geteuid() == 0, "needs root, to be somebody else")) return;
  const Result found = snapgdb({"doctor"}, {.user = kNobody});
  INFO(found);
  CHECK(answer(found, "processes of other users") == "no");
  CHECK(contains(found.out, "it takes CAP_SYS_PTRACE: be root"));
  CHECK(answer(found, "TCP connections to outside") == "no");
  CHECK(answer(found, "seccomp filters") == "no");
}

TEST_CASE("doctor misses a debugger that is not in PATH, and ends well all the same") {
  const Result found = snapgdb({"doctor"}, {.environment = {{"PATH", "/nonexistent"}}});
  INFO(found);
  CHECK(answer(found, "gdb") == "no");
  CHECK(contains(found.out, "there is none in PATH: install gdb"));
  CHECK(found.ok());
}

TEST_CASE("doctor leaves nothing behind") {
  const auto mounts = read_file("/proc/self/mountinfo");
  REQUIRE(snapgdb({"doctor"}).ok());
  CHECK(read_file("/proc/self/mountinfo") == mounts);
  CHECK(children_of(getpid()).empty());
}

}  // namespace snapgdb::e2e
