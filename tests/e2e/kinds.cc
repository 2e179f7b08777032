// Memory of awkward kinds (tests/targets/kinds.cc): however it was secured, each page is in the
// image as the program has it, or is said to be missing; and the program does not notice.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <sstream>

#include "tests/e2e/harness.h"
#include "tests/e2e/huge_pages.h"
#include "tests/e2e/json.h"
#include "tests/targets/target.h"

namespace snapgdb::e2e {
namespace {

constexpr size_t kPage = 4096;

// A page as the program describes it: "page NAME ADDRESS HOLDS".
struct Page {
  std::string name, address, holds;

  bool has_content() const { return holds != "guard" && holds != "undelivered"; }
  std::string content() const {
    std::string bytes(kPage, '\0');
    if (holds == "zero") return bytes;
    for (uint64_t i = 0; i < kPage / sizeof i; ++i) {
      const uint64_t word = target::mix(std::stoull(holds) + i);
      std::memcpy(&bytes[i * sizeof i], &word, sizeof word);
    }
    return bytes;
  }
};

std::vector<Page> pages_of(const Target& target) {
  std::vector<Page> pages;
  for (const std::string& line : target.said("page")) {
    Page& page = pages.emplace_back();
    std::istringstream(line) >> page.name >> page.address >> page.holds;
  }
  for (const std::string& what : target.said("passed over")) WARN("skipped: " << what);
  return pages;
}

// What gdb can read of each page, by address; and what it says is missing.
struct Seen {
  std::map<std::string, std::string> contents;
  std::string said;
};

Seen read_with_gdb(const std::vector<Page>& pages, const Words& arguments, Words commands) {
  const TempDir directory;
  for (const Page& page : pages)
    commands.push_back(fmt::format("dump binary memory {}/{} {} {}+{}", directory.path(),
                                   page.address, page.address, page.address, kPage));
  const Result result = gdb(commands, arguments);
  INFO(result);
  REQUIRE_FALSE(result.timed_out);
  Seen seen{.contents = {}, .said = result.out + result.err};
  for (const std::string& address : directory.names())
    seen.contents[address] = read_file(directory / address);
  return seen;
}

Seen read_image(const std::vector<Page>& pages, const std::string& image) {
  return read_with_gdb(pages, {},
                       {"target remote | " + program() + " " + image, "monitor missing"});
}

Seen read_core(const std::vector<Page>& pages, const std::string& image) {
  const TempDir directory;
  const Result result = snapgdb({"core", image, "-o", directory / "core"});
  INFO(result);
  REQUIRE((result.status == 0 || result.status == 3));
  return read_with_gdb(pages, {target_path("kinds"), directory / "core"}, {});
}

// Who may look behind a mapping, and whom one may ask what there is.
struct Access {
  bool by_root = true, may_ask = true;

  // Pages that the process has not mapped in, of shared memory to which no descriptor leads.
  bool reaches(const Page& page) const {
    const Words huge{"hugetlb-shared-hole", "hugetlb-file", "hugetlb-file-hole"};
    if (std::ranges::find(huge, page.name) != huge.end()) return by_root;
    return by_root || may_ask || page.name != "shared-hole-at-guard";
  }
};

void check_pages(const std::vector<Page>& pages, const Seen& seen, Access access) {
  for (const Page& page : pages) {
    const auto found = seen.contents.find(page.address);
    const bool readable = found != seen.contents.end();
    CAPTURE(page.name, page.address, page.holds, readable);
    if (page.has_content() && access.reaches(page)) CHECK(readable);
    if (!page.has_content()) CHECK_FALSE(readable);
    if (readable && page.has_content()) CHECK((found->second == page.content()));
  }
}

// ---- Who captures what, and how ---------------------------------------------------------------

struct Way {
  const char* method;  // by which its memory is secured then
  Words arguments;
  bool may_ask = true;  // the process may be made to perform system calls
};

struct Scene {
  Scene(Words arguments, std::optional<uid_t> as_user)
      : user(as_user), target("kinds", arguments, {.user = as_user}), pages(pages_of(target)) {
    if (user) REQUIRE(chown(directory.path().c_str(), *user, *user) == 0);
  }

  void capture() const {
    const Result result =
        run({program(), "capture", std::to_string(target.pid()), "-o", image}, {.user = user});
    INFO(result);
    REQUIRE((result.status == 0 || result.status == 3));
  }

  std::string method() const {
    const Result result = snapgdb({"show", image, "--json"});
    return json_at(parse_json(result.out), "snapshot.memory_method");
  }

  void check_unnoticed() {
    const Result end = target.finish();
    INFO(end);
    CHECK(end.ok());
  }

  std::optional<uid_t> user;
  TempDir directory;
  std::string image = directory / "image";
  Target target;
  std::vector<Page> pages;
};

void check_captured(Way way, std::optional<uid_t> user, const Words& more = {}) {
  CAPTURE(way.method, user.has_value());
  way.arguments.insert(way.arguments.end(), more.begin(), more.end());
  Scene scene(way.arguments, user);
  for (int i = 0; i < 3; ++i) scene.capture();
  scene.check_unnoticed();
  CHECK(scene.method() == way.method);
  const Seen in_image = read_image(scene.pages, scene.image);
  const Access access{.by_root = geteuid() == 0 && !user, .may_ask = way.may_ask};
  check_pages(scene.pages, in_image, access);
  check_pages(scene.pages, read_core(scene.pages, scene.image), access);
  for (const Page& page : scene.pages) {
    if (page.holds == "guard") CHECK(contains(in_image.said, "a guard page"));
    if (page.holds == "undelivered") CHECK(contains(in_image.said, "userfaultfd had not provided"));
  }
}

const Way kCopied{"copied while stopped", {}};
const Way kCopiedFirst{"pre-copy", {"--ballast", "16", "--no-userfaultfd"}};
const Way kCloned{"twin", {"--ballast", "16"}};
const Way kStopped{"stop-copy", {"--ballast", "80", "--seccomp", "--no-userfaultfd"}, false};

TEST_CASE(
    "memory of awkward kinds is in the image as the program has it, or is said to be missing") {
  for (const Way& way : {kCopied, kCopiedFirst, kCloned, kStopped}) check_captured(way, {});
}

TEST_CASE("an ordinary user's memory of awkward kinds is in the image, or is said to be missing") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  for (const Way& way : {kCopied, kCopiedFirst, kCloned, kStopped}) check_captured(way, kNobody);
}

// ---- Huge pages -------------------------------------------------------------------------------

TEST_CASE("huge pages are in the image as the program has them, or are said to be missing") {
  if (skip_unless(geteuid() == 0, "only root sets huge pages aside")) return;
  const HugePages pool(14);
  if (skip_unless(pool.enough(), "the machine has no huge pages to spare")) return;
  for (const auto& user : {std::optional<uid_t>(), std::optional(kNobody)}) {
    for (const Way& way : {kCopied, kCopiedFirst, kStopped})
      check_captured(way, user, {"--hugetlb"});
  }
}

// ---- What must not be done to a program -------------------------------------------------------

TEST_CASE("a program whose userfaultfd is told of forks is not told of a capture") {
  if (skip_unless(geteuid() == 0, "needs CAP_SYS_PTRACE in the program")) return;
  check_captured({"copied while stopped", {"--ballast", "16"}}, {}, {"--told-of-forks"});
}

}  // namespace
}  // namespace snapgdb::e2e
