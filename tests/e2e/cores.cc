// The cores that `snapgdb core` writes, opened by everything that opens cores, without a warning.

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "tests/e2e/harness.h"
#include "tests/e2e/json.h"

namespace snapgdb::e2e {
namespace {

struct Program {
  const char* name;
  bool position_independent;
};
constexpr Program kPrograms[] = {{"witness", true}, {"witness-static", false}};

// A captured tree of one process and its core.
struct OneCore {
  // Without AMX: a debugger that knows no tiles complains of them, in any core.
  explicit OneCore(const char* name)
      : executable(target_path(name)), target(name, {"--alone", "--no-tiles"}) {
    capture(target.pid(), directory / "image");
    result = snapgdb({"core", directory / "image", "-o", core});
  }
  TempDir directory;
  std::string core = directory / "the core", executable;
  Target target;
  Result result;
};

void check_no_complaint(const Result& result) {
  CHECK(result.status == 0);
  for (const std::string& line : lines_of(result.out + result.err)) {
    CAPTURE(line);
    CHECK_FALSE(line.starts_with("warning:"));
    CHECK_FALSE(line.starts_with("error:"));
  }
}

TEST_CASE("gdb opens a core without a warning and shows every thread") {
  for (const Program& program : kPrograms) {
    OneCore one(program.name);
    const Result result = gdb({"info threads", "thread apply all bt"}, {one.executable, one.core});
    check_no_complaint(result);
    INFO(result);
    for (const char* name : {"marked_recurse", "libwitness_call", "marked_inlined",
                             "<signal handler called>", "hold_registers_in_pause", "main"}) {
      CHECK(contains(result.out, name));
    }
    CHECK_FALSE(contains(result.out, "?? ()"));
    CHECK(one.target.finish().ok());
  }
}

TEST_CASE("lldb opens a core without a warning and shows every thread") {
  for (const Program& program : kPrograms) {
    OneCore one(program.name);
    const Result result = run({"lldb", "--no-lldbinit", "--batch", "-c", one.core, one.executable,
                               "-o", "thread backtrace all"});
    check_no_complaint(result);
    INFO(result);
    for (const char* name : {"marked_recurse", "libwitness_call", "marked_callback",
                             "hold_registers_in_pause", "main"}) {
      CHECK(contains(result.out, name));
    }
    CHECK(one.target.finish().ok());
  }
}

TEST_CASE("eu-stack finds the way from the innermost frame to the start of every thread") {
  for (const Program& program : kPrograms) {
    OneCore one(program.name);
    const Result result = run({"eu-stack", "--core", one.core, "-e", one.executable, "-l"});
    INFO(result);
    CHECK(result.status == 0);
    CHECK(result.err.empty());
    CHECK(contains(result.out, "marked_recurse"));
    CHECK(contains(result.out, "libwitness_call"));
    CHECK(one.target.finish().ok());
  }
}

TEST_CASE("eu-readelf reads every note of a core without a complaint") {
  OneCore one("witness");
  const Result result = run({"eu-readelf", "-n", "-l", "-h", one.core});
  INFO(result);
  CHECK(result.status == 0);
  CHECK(result.err.empty());
  for (const char* note : {"PRSTATUS", "FPREGSET", "X86_XSTATE", "PRPSINFO", "AUXV", "FILE"}) {
    CAPTURE(note);
    CHECK(contains(result.out, note));
  }
  CHECK_FALSE(contains(result.out + result.err, "invalid"));
  CHECK(one.target.finish().ok());
}

TEST_CASE("a core is its owner's alone, and no larger on disk than what is in it") {
  OneCore one("witness");
  INFO(one.result);
  const auto permissions = std::filesystem::status(one.core).permissions();
  CHECK(permissions == (std::filesystem::perms::owner_read | std::filesystem::perms::owner_write));
  // The program has a mapping of 16 GiB with five pages in it.
  const Result blocks = run({"stat", "-c", "%b", one.core});
  CHECK(std::stoull(blocks.out) * 512 < (size_t{64} << 20));
  CHECK(one.target.finish().ok());
}

TEST_CASE("a tree gives a core per living process, and --pid one of them") {
  const TempDir directory;
  Target target("zombies");
  capture(target.pid(), directory / "image");
  const Result all = snapgdb({"core", directory / "image", "-o", directory / "cores/"});
  INFO(all);
  CHECK(all.status == 0);
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry :
       std::filesystem::directory_iterator(directory / "cores")) {
    ++count;
  }
  CHECK(count == 4);  // the zombie has no memory
  const std::string orphan = target.said("orphan").front();
  CHECK(snapgdb({"core", directory / "image", "--pid", orphan, "-o", directory / "one"}).ok());
  CHECK(std::filesystem::is_regular_file(directory / "one"));
  check_refused(snapgdb({"core", directory / "image", "--pid", "1", "-o", directory / "two"}), 1,
                {"1"});
  CHECK_FALSE(std::filesystem::exists(directory / "two"));
  CHECK(target.finish().ok());
}

TEST_CASE("the thread that crashed is the first that gdb shows of a core") {
  const TempDir directory;
  const Result crash =
      snapgdb({"run", "-o", directory / "image", "--", target_path("crasher"), "segv-thread"});
  INFO(crash);
  REQUIRE(std::filesystem::exists(directory / "image"));
  REQUIRE(snapgdb({"core", directory / "image", "-o", directory / "core"}).ok());
  const Result result =
      gdb({"bt", "print $_siginfo.si_signo", "print $_siginfo._sifields._sigfault.si_addr"},
          {target_path("crasher"), directory / "core"});
  check_no_complaint(result);
  INFO(result);
  CHECK(contains(result.out, "Program terminated with signal SIGSEGV"));
  CHECK(contains(result.out, "crash_here"));
  CHECK(contains(result.out, "$1 = 11"));
  CHECK(contains(result.out, "$2 = (void *) 0x0"));
}

TEST_CASE("a core that cannot be written is said to be so, of the core and not of the image") {
  const TempDir directory;
  Target target("zombies");
  const std::string image = directory / "image", pid = std::to_string(target.pid());
  capture(target.pid(), image);
  check_refused(snapgdb({"core", image, "-o", "-"}, {.directory = directory.path()}), 2,
                {"standard output", "seeked"});
  const Result device = snapgdb({"core", image, "--pid", pid, "-o", "/dev/null"});
  check_refused(device, 1, {"cannot write /dev/null", "not a regular file"});
  CHECK_FALSE(contains(device.err, image));
  // In blocks of 512 bytes or 1024.
  const Result limited = run({"sh", "-c",
                              fmt::format("ulimit -f 8; exec {} core {} --pid {} -o {}", program(),
                                          image, pid, directory / "core")});
  check_refused(limited, 1, {directory / "core", "File too large"});
  CHECK(directory.names() == Words{"image"});
  CHECK(target.finish().ok());
}

}  // namespace
}  // namespace snapgdb::e2e
