// What commands print: that it gets there, and is about those processes that were asked for.

#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <utility>

#include "core/base/strings.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/json.h"

namespace snapgdb::e2e {
namespace {

Json json_of(const std::string& image, const std::string& section = "summary") {
  const Result result = snapgdb({"show", image, section, "--json"});
  INFO(result);
  REQUIRE(result.ok());
  return parse_json(result.out);
}

TEST_CASE("what cannot be written to standard output is a failure") {
  const TempDir directory;
  Target target("zombies");
  capture(target.pid(), directory / "image");
  const std::string show = program() + " show " + directory / "image";
  for (const char* section : {"", " maps"})
    for (const auto& [where, why] : {std::pair(" >/dev/full", "No space left on device"),
                                     std::pair(" >&-", "Bad file descriptor")}) {
      CAPTURE(section, where);
      check_refused(run({"sh", "-c", show + section + where}), 1,
                    {"cannot write standard output", why});
    }
  CHECK(target.finish().ok());
}

TEST_CASE("a closed standard output is no place for an image") {
  Target target("zombies");
  const Result result =
      run({"sh", "-c", fmt::format("{} capture {} -o - >&-", program(), target.pid())});
  INFO(result);
  CHECK(result.status == 1);
  CHECK(contains(result.err, "Bad file descriptor"));
  CHECK(target.finish().ok());
}

TEST_CASE("a process that has lost its parent is in the tree all the same") {
  const TempDir directory;
  const std::string image = directory / "image";
  // The subshell ends, and what it has started belongs to another process from then on.
  snapgdb({"run", "-o", image, "--", "sh", "-c",
           "(sh -c 'sleep 0.5; kill -SEGV $$' &); sleep 1.5; true"});
  const Json json = json_of(image);
  const Result tree = snapgdb({"show", image, "tree"}), summary = snapgdb({"show", image});
  INFO(tree);
  INFO(summary);
  CHECK(lines_of(tree.out).size() == elements_at(json, "processes").size() + 1);
  for (const Json* process : elements_at(json, "processes"))
    CHECK(contains(summary.out, json_at(*process, "pid") + "  "));
}

TEST_CASE("of one process only what is its own is shown") {
  const TempDir directory;
  Target target("witness");
  const std::string image = directory / "image";
  capture(target.pid(), image);
  const std::string root = std::to_string(target.pid()),
                    other = std::to_string(target.processes().back());
  for (const Words& words : {Words{"show", image, "--pid", other}, Words{image, "--pid", other}}) {
    const Result result = snapgdb(words);
    INFO(result);
    CHECK(result.ok());
    const Words lines = lines_of(result.out);
    const auto has_row = [&](const std::string& pid) {
      return std::ranges::any_of(
          lines, [&](const std::string& line) { return trim(line).starts_with(pid + "  "); });
    };
    CHECK(has_row(other));
    CHECK_FALSE(has_row(root));
  }
  check_refused(snapgdb({"show", image, "files", "--pid", other}), 2, {"files", other});
  check_refused(snapgdb({"show", image, "--pid", "0"}), 1, {"process 0"});
  check_refused(snapgdb({"bt", image, "--frames", "-1"}), 2, {"--frames"});
  check_refused(snapgdb({"bt", image, "--frames", "0"}), 2, {"--frames"});
  CHECK(target.finish().ok());
}

TEST_CASE("descriptors on their way to a process are in the JSON of descriptors as well") {
  const TempDir directory;
  Target target("descriptors");
  capture(target.pid(), directory / "image");
  const std::string pid = std::to_string(target.pid());
  const Json all = json_of(directory / "image"), fds = json_of(directory / "image", "fds");
  const Json &whole = element_with(all, "processes", "pid", pid),
             &shown = element_with(fds, "processes", "pid", pid);
  CHECK(json_at(shown, "in_flight") == json_at(whole, "in_flight"));
  CHECK_FALSE(json_at(shown, "in_flight") == "(nothing)");
  CHECK(target.finish().ok());
}

TEST_CASE("the K-th snapshot of an image on standard input can be named") {
  const TempDir directory;
  Target target("zombies");
  capture(target.pid(), directory / "image");
  const Result result =
      run({"sh", "-c", program() + " show /dev/stdin@1 tree <" + directory / "image"});
  INFO(result);
  CHECK(result.ok());
  CHECK(contains(result.out, "zombies"));
  CHECK(target.finish().ok());
}

}  // namespace
}  // namespace snapgdb::e2e
