// Random trees, captured and restored: they check themselves (tests/targets/soak.cc).
// SNAPGDB_SEEDS=FIRST-LAST chooses which; a thousand take about ten minutes.

#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

// All but sockets of the network, whose connections and queues only root makes again.
const std::string kOrdinary =
    "pipe,file,memfd,directory,device,eventfd,epoll,timerfd,signalfd,inotify,pidfd,pair,in-flight,"
    "unix,terminal,packets";

struct Seeds {
  int first = 3, last = 9;
};

Seeds chosen_seeds() {
  Seeds seeds;
  if (const char* text = std::getenv("SNAPGDB_SEEDS"))
    REQUIRE(std::sscanf(text, "%d-%d", &seeds.first, &seeds.last) == 2);
  return seeds;
}

// How the tree of that seed ends.
Result soaked(int seed, const Words& options, std::optional<uid_t> user) {
  const TempDir directory;
  if (user) std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Words arguments{"--seed", std::to_string(seed)};
  if (user || geteuid() != 0) arguments.insert(arguments.end(), {"--only", kOrdinary});
  Target target("soak", arguments, {.user = user});
  std::ofstream(target.scratch() + "/restored").put('\n');
  take_away(target.running(), directory / "image", {.user = user});
  return run_again(directory / "image", options, {.user = user});
}

void soak(int seed, const Words& options, std::optional<uid_t> user = {}) {
  CAPTURE(seed, options);
  Result end = soaked(seed, options, user);
  for (int tries = 1; tries < 10 && met_another_terminal(end); ++tries)
    end = soaked(seed, options, user);
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("random trees are the same again") {
  const Seeds seeds = chosen_seeds();
  for (int seed = seeds.first; seed <= seeds.last; ++seed) soak(seed, {});
}

TEST_CASE("random trees are the same in isolation") {
  const Seeds seeds = chosen_seeds();
  for (int seed = seeds.first; seed <= seeds.last; ++seed) soak(seed, {"--isolated"});
}

TEST_CASE("random trees of an ordinary user are the same again") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  const Seeds seeds = chosen_seeds();
  for (int seed = seeds.first; seed <= seeds.last; ++seed) soak(seed, {}, kNobody);
}

}  // namespace
}  // namespace snapgdb::e2e
