// snapgdb restore: descriptors that tell of something.

#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

// The program checks itself at its end.
void check_restored(const Words& arguments, const Words& options = {},
                    std::optional<uid_t> user = {}) {
  const TempDir directory;
  if (user) std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Target target("notifications", arguments, {.user = user});
  std::ofstream(target.scratch() + "/restored").put('\n');
  take_away(target.running(), directory / "image", {.user = user});
  const Result end = run_again(directory / "image", options, {.user = user});
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("timers, signals, counters, processes and watched files are told of as before") {
  check_restored(geteuid() == 0 ? Words{"--alarms", "--fanotify"} : Words{});
}

TEST_CASE("so they are to a tree that is restored in isolation, twice") {
  const TempDir directory;
  Target target("notifications");
  std::ofstream(target.scratch() + "/restored").put('\n');
  take_away(target.running(), directory / "image");
  for (int round = 0; round < 2; ++round) {
    const Result end = run_again(directory / "image",
                                 {"--isolated", "--scratch", directory / std::to_string(round)});
    INFO(end);
    CHECK(end.ok());
  }
}

TEST_CASE("so they are to an ordinary user's tree") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  check_restored({}, {}, kNobody);
}

}  // namespace
}  // namespace snapgdb::e2e
