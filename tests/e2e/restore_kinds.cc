// snapgdb restore, kind by kind: what only its users had, and what is seldom used.

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "tests/e2e/huge_pages.h"
#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

// The program checks itself at its end.
void check_restored(const std::string& name, const Words& arguments = {},
                    std::optional<uid_t> user = {}) {
  const TempDir directory;
  if (user) std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Target target(name, arguments, {.user = user});
  std::ofstream(target.scratch() + "/restored").put('\n');
  take_away(target.running(), directory / "image", {.user = user});
  const Result end = run_again(directory / "image", {}, {.user = user});
  INFO(end);
  CHECK(end.ok());
}

// ---- Tasks --------------------------------------------------------------------------------------

TEST_CASE("a process goes on without its first thread, beside zombies and orphans") {
  check_restored("zombies", {"--without-stopped"});
}

TEST_CASE("so does an ordinary user's") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  check_restored("zombies", {"--without-stopped"}, kNobody);
}

TEST_CASE("a first process whose first thread has exited ends as its last thread says") {
  const TempDir directory;
  Running python({"python3", "-c",
                  "import ctypes, os, sys, threading\n"
                  "def live():\n"
                  "  while open('/proc/self/stat').read().split()[2] != 'Z': pass\n"
                  "  print('ready', flush=True); sys.stdin.read(); os._exit(9)\n"
                  "threading.Thread(target=live).start()\n"
                  "ctypes.CDLL(None).syscall(60, 3)\n"},
                 {.input = RunOptions::kPipe});
  python.wait_for_line("ready");
  take_away(python, directory / "image");
  for (int round = 0; round < 2; ++round) {
    const Result end = run_again(directory / "image");
    INFO(end);
    CHECK(end.status == 9);
  }
}

TEST_CASE("processes share memory and descriptors as they did") {
  check_restored("sharers");
}

TEST_CASE("a parent that waits in vfork is in the way by name, and killed with its child") {
  const TempDir directory;
  Target vforker("vforker", {}, {.input = RunOptions::kPipe});
  const std::vector<pid_t> pids = tree_of(vforker.pid());
  REQUIRE(pids.size() == 2);
  const Result captured =
      snapgdb({"capture", std::to_string(vforker.pid()), "-o", directory / "image", "--kill"});
  INFO(captured);
  CHECK(vforker.running().wait().signal == SIGKILL);
  for (const pid_t pid : pids) await_end(pid);
  const Result refused = snapgdb({"restore", directory / "image"});
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, "waits in vfork(2)"));
}

// ---- Files without a name -----------------------------------------------------------------------

TEST_CASE("removed files and memfds have their content, holes, sharing, seals and times") {
  check_restored("nameless");
}

TEST_CASE("an ordinary user's removed files and memfds come back, too") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  check_restored("nameless", {"--all-open"}, kNobody);
}

TEST_CASE("a tree with removed files is captured while it runs, and does not notice") {
  const TempDir directory;
  Target target("nameless");
  capture(target.pid(), directory / "image");
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("a removed file whose name is taken now is restored beside the new one") {
  const TempDir directory;
  Running shell(
      {"bash", "-c",
       "cd \"$1\"; echo old >file; exec 3<file; rm file; echo ready; read -r line; cat <&3", "-",
       directory.path()},
      {.input = RunOptions::kPipe});
  shell.wait_for_line("ready");
  take_away(shell, directory / "image");
  std::ofstream(directory / "file") << "new\n";
  const Result end = run_again(directory / "image");
  INFO(end);
  CHECK(end.out == "old\n");
  CHECK(read_file(directory / "file") == "new\n");
  CHECK(directory.names() == Words{"file", "image"});
}

TEST_CASE("what a program keeps out of dumps is not taken from its memfd either") {
  const TempDir directory;
  Running python({"python3", "-c",
                  "import mmap, os\n"
                  "m = os.memfd_create('secret'); os.write(m, b'x' * 8192)\n"
                  "view = mmap.mmap(m, 4096); view.madvise(mmap.MADV_DONTDUMP)\n"
                  "print('ready', flush=True); input()\n"},
                 {.input = RunOptions::kPipe});
  python.wait_for_line("ready");
  capture(python.pid(), directory / "image", {"--kill"});
  python.wait();
  const Result result = snapgdb({"restore", directory / "image"});
  INFO(result);
  CHECK(result.status == 1);
  CHECK(contains(result.err, "/memfd:secret: its content is not in the image"));
  CHECK(contains(result.err, "MADV_DONTDUMP"));
}

TEST_CASE("huge pages come back as such, or are said to be lacking beforehand") {
  if (skip_unless(geteuid() == 0, "only root sets huge pages aside")) return;
  const TempDir directory;
  {
    const HugePages pool(6);
    if (skip_unless(pool.enough(), "the machine has no huge pages to spare")) return;
    Target target("nameless", {"--hugetlb"});
    take_away(target.running(), directory / "image");
    const Result end = run_again(directory / "image");
    INFO(end);
    CHECK(end.ok());
  }
  if (std::stoul(read_file("/proc/sys/vm/nr_hugepages")) > 0) return;
  const Result refused = snapgdb({"restore", directory / "image"});
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, "the tree needs 6, of which 0 are free"));
  CHECK(contains(refused.err, "nr_hugepages"));
}

}  // namespace
}  // namespace snapgdb::e2e
