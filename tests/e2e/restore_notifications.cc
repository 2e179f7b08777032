// snapgdb restore: descriptors that tell of something.

#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

// The program checks itself at its end.
void check_restored(const Words& arguments, const Words& options = {},
                    std::optional<uid_t> user = {}) {
  const TempDir directory;
  if (user) std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Target target("notifications", arguments, {.user = user});
  std::ofstream(target.scratch() + "/restored").put('\n');
  take_away(target.running(), directory / "image", {.user = user});
  const Result end = run_again(directory / "image", options, {.user = user});
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("timers, signals, counters, processes and watched files are told of as before") {
  check_restored(geteuid() == 0 ? Words{"--alarms", "--fanotify"} : Words{});
}

TEST_CASE("so they are to a tree that is restored in isolation, twice") {
  const TempDir directory;
  Target target("notifications");
  std::ofstream(target.scratch() + "/restored").put('\n');
  take_away(target.running(), directory / "image");
  for (int round = 0; round < 2; ++round) {
    const Result end = run_again(directory / "image",
                                 {"--isolated", "--scratch", directory / std::to_string(round)});
    INFO(end);
    CHECK(end.ok());
  }
}

TEST_CASE("so they are to an ordinary user's tree") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  check_restored({}, {}, kNobody);
}

constexpr const char* kWatching = R"(
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
where = sys.argv[1]
os.mkdir(f"{where}/watched")
events = libc.inotify_init()
libc.inotify_add_watch(events, f"{where}/watched".encode(), 0x100)  # IN_CREATE
open(f"{where}/is-ready", "w").close()
os.read(0, 5)  # one line, and nothing of the next
open(f"{where}/watched/new", "w").close()
os.write(1, os.read(events, 4096)[16:].rstrip(b"\0") + b"\n")
)";
constexpr const char* kWatchers = R"(
exec 3<&0  # jobs have none of their own
mkdir outer inner; mount -t tmpfs outer outer
python3 watch.py outer <&3 & first=$!
unshare -m sh -c 'mount -t tmpfs inner inner; exec python3 watch.py inner' <&3 & second=$!
until [ -e outer/is-ready ] && [ -e /proc/$second/root$PWD/inner/is-ready ]; do sleep 0.01; done
echo ready
wait $first && wait $second
)";

TEST_CASE("files in mounts of the tree's own are watched again, also in those below") {
  if (skip_unless(geteuid() == 0, "only root may mount")) return;
  const TempDir directory;
  std::ofstream(directory / "watch.py") << kWatching;
  Running shell({"unshare", "-m", "sh", "-c", kWatchers},
                {.input = RunOptions::kPipe, .directory = directory.path()});
  shell.wait_for_line("ready");
  take_away(shell, directory / "image");
  for (const Words& options : {Words{}, Words{"--isolated"}}) {
    const Result end = run_again(directory / "image", options, {}, "line\nline\n");
    INFO(end);
    CHECK(end.out == "new\nnew\n");
  }
}

// Who asks it is told of their own signals: nobody but the program may.
TEST_CASE("an epoll goes on telling of a signalfd that waits, captured or restored") {
  constexpr const char* kBefore =
      "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"
      "wanted = struct.pack('QQ', 1 << 9, 0) + bytes(112)\n"
      "signals = libc.signalfd(-1, wanted, 0o4000)\n"
      "inner = select.epoll(); inner.register(signals, select.EPOLLIN | select.EPOLLET)\n"
      "outer = select.epoll(); outer.register(inner.fileno(), select.EPOLLIN | select.EPOLLET)\n"
      "os.kill(os.getpid(), signal.SIGUSR1)";
  constexpr const char* kAfter =
      "assert outer.poll(10) == [(inner.fileno(), 1)]\n"
      "assert inner.poll(10) == [(signals, 1)]";
  TakenPython program(kBefore, kAfter);
  const Result captured = snapgdb(
      {"capture", std::to_string(program.running.pid()), "-o", program.directory / "first"});
  INFO(captured);
  CHECK(captured.ok());
  program.take();
  program.check_runs_again();
  TakenPython runs_on(kBefore, kAfter);
  CHECK(snapgdb({"capture", std::to_string(runs_on.running.pid()), "-o", runs_on.image}).ok());
  write_file(runs_on.directory / "go", "");
  const Result end = runs_on.running.wait();
  INFO(end);
  CHECK(end.ok());
}

}  // namespace
}  // namespace snapgdb::e2e
