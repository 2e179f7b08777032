// snapgdb restore: sockets.

#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

namespace fs = std::filesystem;

// The program checks itself at its end, and removes the names that it had: so each restore of it
// begins with those that it had when it was taken away.
void check_restored(const std::string& name, const Words& options, std::optional<uid_t> user = {},
                    int rounds = 2) {
  const TempDir directory;
  if (user) fs::permissions(directory.path(), fs::perms::all);
  Target target(name, {}, {.user = user});
  std::ofstream(target.scratch() + "/restored").put('\n');
  take_away(target.running(), directory / "image", {.user = user});
  for (int round = 0; round < rounds; ++round) {
    CAPTURE(round);
    const fs::path scratch = target.scratch(), saved = directory / "saved";
    fs::copy(scratch, saved, fs::copy_options::recursive | fs::copy_options::skip_symlinks);
    const Result end = run_again(directory / "image", options, {.user = user});
    INFO(end);
    CHECK(end.ok());
    CHECK_FALSE(contains(end.err, "snapgdb:"));
    fs::remove_all(saved);
  }
}

TEST_CASE("unix sockets come back with their connections, names and queues") {
  check_restored("unix_sockets", {}, {}, 1);
}

}  // namespace
}  // namespace snapgdb::e2e
