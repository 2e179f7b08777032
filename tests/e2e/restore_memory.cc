// The memory of restored trees: when it comes, and how much of it there is.

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

constexpr char kNeedsRoot[] = "only root may have a process's page faults told, its own included";

// Living processes of that name, as /proc/PID/comm has it, below this one: orphans become its
// children. Other tests have such, too.
std::vector<pid_t> processes_named(const std::string& name) {
  std::vector<pid_t> found = tree_of(getpid());
  std::erase_if(found, [&](pid_t pid) {
    std::string line;
    std::getline(std::ifstream(fmt::format("/proc/{}/comm", pid)), line);
    return line != name || state_of(pid) == 'Z';
  });
  return found;
}

// ---- Shared by copy-on-write --------------------------------------------------------------------

// Of all processes together, each page counted once: Pss of /proc/PID/smaps_rollup.
uint64_t kib_of(const std::vector<pid_t>& tree) {
  uint64_t sum = 0;
  for (const pid_t pid : tree)
    for (const std::string& line : lines_of(read_file(fmt::format("/proc/{}/smaps_rollup", pid))))
      if (line.starts_with("Pss:")) sum += std::stoull(line.substr(4));
  return sum;
}

TEST_CASE("what parent and children had in common takes memory once") {
  const TempDir directory;
  Target changer("changer", {"--children", "4"});
  const uint64_t before = kib_of(tree_of(changer.pid()));
  take_away(changer.running(), directory / "image");
  Running restored({"sh", "-c", program() + " restore --detach \"$0\"; cat", directory / "image"},
                   {.input = RunOptions::kPipe});
  const std::vector<pid_t> tree = tree_of(std::stoi(restored.wait_for_line("")));
  CHECK(tree.size() == 5);
  const uint64_t after = kib_of(tree);
  INFO(before << " KiB before, " << after << " KiB after");
  // It goes on changing pages, each of which is one's own then; nothing in common would be four
  // times as much.
  CHECK(after < before * 3 / 2);
  restored.close_input();
  for (const pid_t pid : tree) await_end(pid);
}

TEST_CASE("children find their memory as it was, shared with their parent or not") {
  const TempDir directory;
  Target changer("changer", {"--mib", "16", "--children", "3"});
  take_away(changer.running(), directory / "image");
  const Result end = run_again(directory / "image");
  INFO(end);
  CHECK(end.ok());
}

// ---- Lazily -------------------------------------------------------------------------------------

TEST_CASE("a tree that runs before its memory is there finds all of it") {
  if (skip_unless(geteuid() == 0, kNeedsRoot)) return;
  const TempDir directory;
  const std::vector<Words> programs{{"busy", "--mib", "40"},
                                    {"crowd", "--processes", "6", "--threads", "3"},
                                    {"mapper", "--move"},
                                    {"forker"}};
  for (const Words& words : programs) {
    CAPTURE(words);
    Target target(words.front(), Words(words.begin() + 1, words.end()));
    take_away(target.running(), directory / "image");
    for (const Words& options :
         {Words{"--lazy"}, Words{"--lazy", "--isolated", "--scratch", directory / "scratch"}}) {
      const Result end = run_again(directory / "image", options);
      INFO(end);
      CHECK(end.ok());
      CHECK_FALSE(contains(end.err, "userfaultfd"));
    }
  }
}

TEST_CASE("memory that is not there yet is moved, dropped, unmapped and inherited as any other") {
  if (skip_unless(geteuid() == 0, kNeedsRoot)) return;
  const TempDir directory;
  Target changer("changer", {"--children", "2"});
  take_away(changer.running(), directory / "image");
  for (int round = 0; round < 20; ++round) {
    CAPTURE(round);
    const Result end = run_again(directory / "image", {"--lazy"});
    INFO(end);
    CHECK(end.ok());
  }
}

TEST_CASE("who may not have page faults told gets memory before the tree runs, and is told") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  const TempDir directory;
  std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Target changer("changer", {"--mib", "8", "--children", "2"}, {.user = kNobody});
  capture(changer.pid(), directory / "image", {"--kill"}, {.user = kNobody});
  changer.running().wait();
  const Result end = run_again(directory / "image", {"--lazy"}, {.user = kNobody});
  INFO(end);
  CHECK(end.ok());
  CHECK(contains(end.err, "--lazy needs CAP_SYS_PTRACE"));
}

TEST_CASE("a tree whose memory cannot be brought is ended, not left with zeros") {
  if (skip_unless(geteuid() == 0, kNeedsRoot)) return;
  const TempDir directory;
  Target changer("changer", {"--mib", "256", "--children", "1"});
  const std::vector<pid_t> pids = tree_of(changer.pid());
  take_away(changer.running(), directory / "image");

  SECTION("since what brings it was killed") {
    Running restored({program(), "restore", "--lazy", directory / "image"},
                     {.input = RunOptions::kPipe});
    std::vector<pid_t> servers;
    while (servers.empty() && !restored.exited()) servers = processes_named("snapgdb-pages");
    REQUIRE(servers.size() == 1);
    REQUIRE(kill(servers.front(), SIGKILL) == 0);
    const Result end = restored.wait();
    INFO(end);
    CHECK_FALSE(end.ok());
    CHECK(contains(end.err, "was killed by signal 9; the tree is ended"));
    for (const pid_t pid : pids) await_end(pid);
  }
  SECTION("since the image is damaged") {
    std::fstream image(directory / "image", std::ios::in | std::ios::out | std::ios::binary);
    image.seekp(static_cast<std::streamoff>(std::filesystem::file_size(directory / "image") / 2));
    image.write("damage", 6);
    image.close();
    const Result end = run_again(directory / "image", {"--lazy"});
    INFO(end);
    CHECK_FALSE(end.ok());
    CHECK(contains(end.err, "a PAGE chunk is damaged; the tree is ended"));
    for (const pid_t pid : pids) await_end(pid);
  }
  for (int tries = 0; tries < 500 && !processes_named("snapgdb-watch").empty(); ++tries)
    usleep(10'000);
  CHECK(processes_named("snapgdb-watch").empty());
}

TEST_CASE("shared memory larger than the machine's comes back where nothing was set aside for it") {
  TakenPython program(
      "import mmap\n"
      "size, flags = 200 << 30, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x4000\n"  // MAP_NORESERVE
      "memory = mmap.mmap(-1, size, flags); memory[size // 2] = 7\n"
      "libc.shmat.restype = ctypes.c_void_p\n"
      "segment = libc.shmget(0, ctypes.c_size_t(size), 0o10600)\n"  // SHM_NORESERVE
      "shown = (ctypes.c_char * size).from_address(libc.shmat(segment, None, 0))\n"
      "libc.shmctl(segment, 0, None); shown[size // 2] = b'x'",
      "assert memory[size // 2] == 7 and shown[size // 2] == b'x' and shown[0] == b'\\0'");
  program.take();
  program.check_runs_again();
}

TEST_CASE("memory that was sealed is sealed again, in the child that has a copy, too") {
  TakenPython program(
      "MSEAL = 462\n"
      "libc.mmap.restype = ctypes.c_void_p\n"
      "def page(): return libc.mmap(None, 4096, 3, 0x22, -1, 0)\n"
      "sealed, own = page(), page()\n"
      "ctypes.memset(sealed, 7, 4096)\n"
      "known = libc.syscall(MSEAL, ctypes.c_void_p(sealed), 4096, 0) == 0\n"
      "told, telling = os.pipe()\n"
      "child = os.fork()\n"
      "def check():\n"
      "  assert ctypes.string_at(sealed, 1) == b'\\x07'\n"
      "  assert libc.mprotect(ctypes.c_void_p(own), 4096, 1) == 0\n"
      "  assert (libc.mprotect(ctypes.c_void_p(sealed), 4096, 1) != 0) == known\n"
      "if child == 0: os.read(told, 1); check(); os._exit(0)",
      "check(); os.write(telling, b'x'); assert os.waitpid(child, 0)[1] == 0");
  program.take();
  program.check_runs_again();
}

}  // namespace
}  // namespace snapgdb::e2e
