// snapgdb restore of tasks that may not do everything: seccomp, system call dispatch, credentials.

#include <signal.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

TEST_CASE("filters of system calls come back, thread by thread, and bind again") {
  if (skip_unless(geteuid() == 0, "reading filters takes CAP_SYS_ADMIN")) return;
  const TempDir directory;
  Target target("restricted");
  const std::vector<pid_t> pids = tree_of(target.pid());
  const Result captured =
      snapgdb({"capture", std::to_string(target.pid()), "-o", directory / "image", "--kill"});
  INFO(captured);
  CHECK(captured.status == 3);  // in strict mode, none can be asked
  for (const pid_t pid : pids) {
    if (pid == target.pid()) CHECK(target.running().wait().signal == SIGKILL);
    await_end(pid);
  }
  for (const Words& options : {Words{}, Words{"--isolated"}, Words{}}) {
    const Result end = run_again(directory / "image", options);
    INFO(end);
    CHECK(end.ok());
  }
}

TEST_CASE("filters bind what runs under gdb, too") {
  if (skip_unless(geteuid() == 0, "reading filters takes CAP_SYS_ADMIN")) return;
  const TempDir directory;
  Running filtered({"python3", "-c",
                    "import ctypes, os, sys\n"
                    "libc = ctypes.CDLL(None, use_errno=True)\n"
                    "code = (ctypes.c_uint64 * 4)(0x20, (121 << 32) | (1 << 24) | 0x15,\n"
                    "                             (0x5004d << 32) | 6, (0x7fff0000 << 32) | 6)\n"
                    "class Program(ctypes.Structure):\n"
                    "  _fields_ = [('n', ctypes.c_ushort), ('at', ctypes.c_void_p)]\n"
                    "p = Program(4, ctypes.addressof(code))\n"
                    "assert libc.prctl(38, 1, 0, 0, 0) == 0\n"
                    "assert libc.prctl(22, 2, ctypes.byref(p)) == 0\n"
                    "print('ready', flush=True); sys.stdin.read()\n"
                    "assert libc.getpgid(0) == -1; os._exit(ctypes.get_errno())\n"},
                   {.input = RunOptions::kPipe});
  filtered.wait_for_line("ready");
  take_away(filtered, directory / "image");
  const Result plain = run_again(directory / "image");
  INFO(plain);
  CHECK(plain.status == 77);
  // A call makes it run; without the filter, it would be the number of a group.
  const Result debugged =
      gdb({"set sysroot /", "target remote | " + program() + " " + (directory / "image"),
           "print ((int (*)(int)) getpgid)(0)"});
  INFO(debugged);
  CHECK(contains(debugged.out, "$1 = -1"));
}

TEST_CASE("filters that could not be read are in the way of a restore by name") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  const TempDir directory;
  std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Target target("kinds", {"--seccomp", "--no-userfaultfd"}, {.user = kNobody});
  const Result captured = snapgdb({"capture", std::to_string(target.pid()), "-o",
                                   directory / "image", "--all-memory", "--kill"},
                                  {.user = kNobody});
  INFO(captured);
  CHECK(captured.status == 3);
  CHECK(contains(captured.err, "seccomp filters"));
  const Result refused = snapgdb({"restore", directory / "image"});
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, "reading them takes CAP_SYS_ADMIN"));
}

}  // namespace
}  // namespace snapgdb::e2e
