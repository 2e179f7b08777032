// Who may capture whom, and what stays out of an image: what the kernel refuses is refused here,
// and what a program keeps to itself is in nobody's image.

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "tests/e2e/harness.h"
#include "tests/targets/target.h"

namespace snapgdb::e2e {
namespace {

// ---- By whom --------------------------------------------------------------------------------

TEST_CASE("root without CAP_SYS_RESOURCE captures anybody's processes") {
  if (skip_unless(geteuid() == 0, "needs root")) return;
  const TempDir directory;
  for (const uid_t user : {uid_t{0}, kNobody}) {
    for (const char* name : {"witness", "descriptors", "zombies"}) {
      Target target(name, {}, {.user = user});
      const Result result =
          run({"setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource", program(),
               "capture", std::to_string(target.pid()), "-o", directory / "image"});
      INFO(result);
      CHECK(result.ok());
      CHECK(snapgdb({"verify", directory / "image"}).ok());
      const Result end = target.finish();
      INFO(end);
      CHECK(end.ok());
    }
  }
}

// Ways in which a process becomes one that the kernel keeps from its own user.
struct Protected {
  const char* why;
  const char* program;  // that is copied
  mode_t mode;
  Words arguments;
  const char* refusal = "the kernel does not permit it";
};

const Protected kProtected[] = {
    {"its program may not be read", "/bin/cat", 0711, {}},
    {"its program is set-user-ID",
     "/bin/cat",
     04755,
     {},
     "it is a set-user-ID or set-group-ID program"},
    {"its program is set-group-ID",
     "/bin/cat",
     02755,
     {},
     "it is a set-user-ID or set-group-ID program"},
    {"it is marked not dumpable",
     "/usr/bin/python3",
     0755,
     {"-c",
      "import ctypes, sys; ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE\n"
      "for line in sys.stdin: print(line, end='', flush=True)"}},
};

Result capture_as(uid_t user, pid_t pid, const std::string& image) {
  return snapgdb({"capture", std::to_string(pid), "-o", image}, {.user = user});
}

void check_is_roots_alone(pid_t root, pid_t protected_one, const char* refusal) {
  const TempDir directory;
  chmod(directory.path().c_str(), 0777);
  check_refused(capture_as(kNobody, root, directory / "image"), 1,
                {std::to_string(protected_one), refusal});
  CHECK(directory.names().empty());
  capture(root, directory / "image");
  CHECK(snapgdb({"verify", directory / "image"}).ok());
}

uid_t owner_of_descriptors(pid_t pid) {
  struct stat status {};
  return stat(fmt::format("/proc/{}/fd", pid).c_str(), &status) ? -1 : status.st_uid;
}

TEST_CASE("a process that its own user may not read is root's alone to capture") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  for (const Protected& how : kProtected) {
    CAPTURE(how.why);
    const TempDir directory;
    std::filesystem::copy_file(how.program, directory / "program");
    REQUIRE(chmod((directory / "program").c_str(), how.mode) == 0);
    // Below a shell, which could be captured if it were alone.
    Words words{"sh", "-c", "\"$0\" \"$@\"; exit 7", directory / "program"};
    words.insert(words.end(), how.arguments.begin(), how.arguments.end());
    Running shell(words, {.input = RunOptions::kPipe, .user = kNobody});
    shell.write("ready\n");
    shell.wait_for_line("ready");
    const pid_t child = children_of(shell.pid()).at(0);
    if (skip_unless(owner_of_descriptors(child) == 0, "no set-user-ID programs here")) continue;

    check_is_roots_alone(child, child, how.refusal);
    check_is_roots_alone(shell.pid(), child, how.refusal);
    CHECK(owner_of_descriptors(child) == 0);  // it is as protected as before
    shell.write("still here\n");
    shell.wait_for_line("still here");
    shell.close_input();
    const Result end = shell.wait();
    INFO(end);
    CHECK(end.status == 7);
  }
}

// ---- Of what --------------------------------------------------------------------------------

// The first bytes of each page of tests/targets/secrets.cc.
std::map<std::string, std::string> pages_of(const Target& target) {
  std::map<std::string, std::string> pages;
  for (const std::string& line : target.said("page")) {
    const size_t blank = line.find(' ');
    const uint64_t seed = std::stoull(line.substr(blank));
    const uint64_t words[] = {target::mix(seed), target::mix(seed + 1), target::mix(seed + 2)};
    pages[line.substr(0, blank)] = std::string(reinterpret_cast<const char*>(words), sizeof words);
  }
  return pages;
}

TEST_CASE("what a program keeps out of dumps is in the image if asked for, secret memory never") {
  const TempDir directory;
  Target target("secrets");
  const auto pages = pages_of(target);
  const bool has_secret = pages.contains("secret");
  skip_unless(has_secret, "this kernel has no memfd_secret");
  for (const bool asked_for : {false, true}) {
    CAPTURE(asked_for);
    // Not compressed, so that what is there can be found.
    Words options{"--level", "0"};
    if (asked_for) options.push_back("--all-memory");
    capture(target.pid(), directory / "image", options);
    const std::string image = read_file(directory / "image");
    CHECK(contains(image, pages.at("plain")));
    CHECK(contains(image, pages.at("out-of-dumps")) == asked_for);
    CHECK_FALSE((has_secret && contains(image, pages.at("secret"))));
  }
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

}  // namespace
}  // namespace snapgdb::e2e
