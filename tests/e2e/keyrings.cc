// Keyrings: described, neither made nor disturbed, and their keys missed.

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "tests/e2e/json.h"
#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

const Words kMissed{"keys of the thread's keyring", "keys of the process's keyring",
                    "keys of the session's keyring"};

bool has_keyrings() {
  return syscall(SYS_request_key, "keyring", "no such keyring", nullptr, 0) < 0 && errno == ENOKEY;
}

// "KIND KEYS" of each keyring of the thread of that name.
Words keyrings_of(const Json& json, const std::string& thread) {
  Words words;
  const Json& described = element_with(json, "processes.0.threads", "name", thread);
  for (const Json* one : elements_at(described, "keyrings"))
    words.push_back(json_at(*one, "kind") + " " + json_at(*one, "keys"));
  return words;
}

void check_description(const std::string& image, const RunOptions& by) {
  const Json json = parse_json(snapgdb({"show", image, "--json"}, by).out);
  CHECK(keyrings_of(json, "keyrings") == Words{"process 1", "session 1"});
  CHECK(keyrings_of(json, "with keys") == Words{"thread 2", "process 1", "session 1"});
  CHECK(keyrings_of(json, "empty") == Words{"thread 0", "process 1", "session 1"});
  // It may be asked for one of them; by an ordinary user, for nothing at all.
  const Words of_filtered = by.user ? Words{} : Words{"session 1"};
  CHECK(keyrings_of(json, "filtered") == of_filtered);
  const auto& filtered = element_with(json, "processes.0.threads", "name", "filtered");
  CHECK(json_at(filtered, "keyrings_untold") == "true");
  const auto& first = element_with(json, "processes.0.threads", "name", "keyrings");
  const std::string key = json_at(first, "keyrings.1.key_descriptions.0");
  CHECK(key.starts_with("user;"));
  CHECK(key.ends_with(";of the session; one"));
}

// By the user, then as root, whoever the keys belong to.
void check_described(std::optional<uid_t> user) {
  const TempDir directory;
  if (user) std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Target target("keyrings", {}, {.user = user});
  const std::string pid = std::to_string(target.pid());
  for (const RunOptions& by : {RunOptions{.user = user}, RunOptions{}}) {
    const std::string image = directory / (by.user ? "theirs" : "image");
    const Result captured = snapgdb({"capture", pid, "-o", image}, by);
    INFO(captured);
    CHECK(captured.status == 3);
    check_says(captured, kMissed);
    check_description(image, by);
  }
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("keyrings are described, and left as they are") {
  if (skip_unless(has_keyrings(), "this kernel has no keyrings")) return;
  check_described({});
}

TEST_CASE("an ordinary user's keyrings are described to them, and to root") {
  if (skip_unless(has_keyrings() && geteuid() == 0, "needs root, and keyrings")) return;
  check_described(kNobody);
}

TEST_CASE("a restore says that keys are missing") {
  if (skip_unless(has_keyrings(), "this kernel has no keyrings")) return;
  const TempDir directory;
  Target target("keyrings");
  std::ofstream(target.scratch() + "/restored").put('\n');
  const std::string pid = std::to_string(target.pid());
  CHECK(snapgdb({"capture", pid, "-o", directory / "image", "--kill"}).status == 3);
  target.running().wait();
  const Result end = run_again(directory / "image");
  INFO(end);
  CHECK(end.ok());
  check_says(end, kMissed);
}

}  // namespace
}  // namespace snapgdb::e2e
