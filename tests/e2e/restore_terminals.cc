// snapgdb restore: pseudoterminals whose masters are in the tree.

#include <unistd.h>
#include <catch2/catch.hpp>

#include <filesystem>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

// Twice; the program checks itself at its end.
void check_restored(const Words& options, std::optional<uid_t> user = {}) {
  const TempDir directory;
  if (user) std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Target target("terminals", {}, {.user = user});
  take_away(target.running(), directory / "image", {.user = user});
  for (int round = 0; round < 2; ++round) {
    const Result end = run_again(directory / "image", options, {.user = user});
    INFO(end);
    CHECK(end.ok());
  }
}

TEST_CASE("terminals of the tree's own come back with their settings, sessions and groups") {
  check_restored({});
}

TEST_CASE("so they do in a sandbox") {
  check_restored({"--isolated"});
}

TEST_CASE("and so do those of an ordinary user") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  check_restored({}, kNobody);
  check_restored({"--isolated"}, kNobody);
}

}  // namespace
}  // namespace snapgdb::e2e
