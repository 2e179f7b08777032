// snapgdb restore: io_uring, and asynchronous I/O.

#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

bool has_none(const Target& target) {
  return skip_unless(target.said("without").empty(), "the kernel gives no io_uring here");
}

void check_restored(const Words& options = {}, std::optional<uid_t> user = {}) {
  const TempDir directory;
  if (user) std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Target target("rings", {}, {.user = user});
  if (has_none(target)) return;
  std::ofstream(target.scratch() + "/restored").put('\n');
  take_away(target.running(), directory / "image", {.user = user});
  for (int round = 0; round < 2; ++round) {
    const Result end = run_again(directory / "image", options, {.user = user});
    INFO(end);
    // Linux 6.18, for one, does not; an older kernel does.
    CHECK((end.ok() || contains(end.err, "this kernel does not let it be mapped where it was")));
  }
}

TEST_CASE(
    "idle rings of io_uring go on where the kernel lets them be mapped, and are in the way "
    "elsewhere") {
  check_restored();
}

TEST_CASE("so it is with those of an isolated tree, and of an ordinary user's") {
  check_restored({"--isolated"});
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  check_restored({}, kNobody);
}

TEST_CASE("a tree with rings of io_uring is captured while it runs, and does not notice") {
  const TempDir directory;
  Target target("rings", {"--files"});
  capture(target.pid(), directory / "image");
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("a ring of io_uring that cannot come back is in the way, with the reason") {
  const auto [option, why] = GENERATE(table<std::string, std::string>(
      {{"--in-flight", "1 requests wait for files to be ready"},
       {"--files", "1 files are registered with it"},
       {"--eventfd", "an eventfd is registered with it"},
       {"--single", "the kernel tells its state to one thread only"}}));
  const TempDir directory;
  Target target("rings", {option});
  if (has_none(target)) return;
  take_away(target.running(), directory / "image");
  const Result refused = run_again(directory / "image");
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, why));
}

TEST_CASE("that asynchronous I/O is not begun again is said once, whoever has a ring mapped") {
  TakenPython program(
      "io_setup, context = 206, ctypes.c_ulong()\n"
      "assert libc.syscall(io_setup, 8, ctypes.byref(context)) == 0\n"
      "if os.fork() == 0: wait(); os._exit(0)",
      "assert os.wait()[1] == 0");
  program.take();
  const Result end = run_again(program.image);
  INFO(end);
  CHECK(end.ok());
  constexpr const char* kNote = "is not begun again";
  CHECK(contains(end.err, kNote));
  CHECK(end.err.find(kNote) == end.err.rfind(kNote));
}

}  // namespace
}  // namespace snapgdb::e2e
