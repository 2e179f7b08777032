// snapgdb restore: System V shared memory, semaphores and message queues.

#include <fmt/format.h>
#include <sched.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

// What one has said that it made; what is left of it goes when the test ends.
struct Objects {
  explicit Objects(const Target& target)
      : segments(target.said("shm")), sets(target.said("sem")), queues(target.said("msg")) {}
  Objects(const Objects&) = delete;
  Objects& operator=(const Objects&) = delete;
  ~Objects() { remove(); }

  void remove() const {
    for (const std::string& id : segments) shmctl(std::stoi(id), IPC_RMID, nullptr);
    for (const std::string& id : sets) semctl(std::stoi(id), 0, IPC_RMID);
    for (const std::string& id : queues) msgctl(std::stoi(id), IPC_RMID, nullptr);
  }
  // How many of them are there.
  size_t count() const {
    size_t count = 0;
    for (const std::string& id : segments) {
      shmid_ds status{};
      count += shmctl(std::stoi(id), IPC_STAT, &status) == 0;
    }
    for (const std::string& id : sets) count += semctl(std::stoi(id), 0, GETVAL) >= 0;
    for (const std::string& id : queues) {
      msqid_ds status{};
      count += msgctl(std::stoi(id), IPC_STAT, &status) == 0;
    }
    return count;
  }

  Words segments, sets, queues;
};

// The target, captured and killed. It has eight objects, of which the removed segment goes with it.
struct Taken : TakenAway {
  explicit Taken(const RunOptions& options = {}, const Words& arguments = {})
      : TakenAway("system_v", arguments, options), objects(target) {
    take();
  }

  Objects objects;
};

constexpr const char* kOnlyRoot = "only root makes them again with their numbers";

TEST_CASE("System V objects that are gone are made again, with their numbers") {
  if (skip_unless(geteuid() == 0, kOnlyRoot)) return;
  const Taken taken;
  CHECK(taken.objects.count() == 7);
  for (int round = 0; round < 2; ++round) {
    taken.objects.remove();
    taken.check_runs_again();
    CHECK(taken.objects.count() == 0);
  }
}

TEST_CASE("System V objects that are still there are used as they are") {
  if (skip_unless(geteuid() == 0, kOnlyRoot)) return;
  const Taken taken;
  taken.check_runs_again();
  CHECK(taken.objects.count() == 0);
}

// A lock that its holder lets go of by its end, whatever that is.
constexpr const char* kLocked = R"PY(
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def change(by): return libc.semop(lock, struct.pack('HhH', 0, by, 0o4000 | 0x1000), 1)
lock = libc.semget(0, 1, 0o600); libc.semctl(lock, 0, 16, 1)  # SETVAL
ends, other = os.pipe()
child = os.fork()
if child == 0:
    while change(-1): pass
    os.read(ends, 1); os.kill(os.getpid(), 9)
while change(-1) == 0: change(1)
print("sem", lock); print("ready", flush=True); sys.stdin.readline()
held = change(-1)
os.write(other, b"."); os.waitpid(child, 0)
print(held, change(-1)); libc.semctl(lock, 0, 0)
)PY";

TEST_CASE(
    "a process that holds a lock of System V lets go of it when it ends, also once restored") {
  const TempDir directory;
  Running python({"python3", "-c", kLocked}, {.input = RunOptions::kPipe});
  const int lock = std::stoi(python.wait_for_line("sem").substr(4));
  python.wait_for_line("ready");
  REQUIRE(snapgdb({"capture", std::to_string(python.pid()), "-o", directory / "both"}).ok());
  const Result twice = snapgdb({"restore", directory / "both", "--dry-run"});
  INFO(twice);
  CHECK(contains(twice.err + twice.out,
                 fmt::format("System V semaphores {} is there, not as it was: it is used as it is, "
                             "and nothing of it is undone (SEM_UNDO)",
                             lock)));
  take_away(python, directory / "image");
  CHECK(semctl(lock, 0, GETVAL) == 1);
  std::vector<Words> ways{{"--isolated"}, {}};
  for (const Words& way : ways) {
    CAPTURE(way);
    const Result end = run_again(directory / "image", way, {}, "line\n");
    INFO(end);
    CHECK(end.out == "-1 0\n");
  }
  CHECK(semctl(lock, 0, GETVAL) == -1);
}

TEST_CASE("an isolated tree has System V objects of its own") {
  const Taken taken;
  for (int round = 0; round < 2; ++round) {
    taken.check_runs_again({"--isolated"});
    CHECK(taken.objects.count() == 7);
  }
  taken.objects.remove();
  taken.check_runs_again({"--isolated"});
}

TEST_CASE("so has an isolated one of an ordinary user") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  const Taken taken({.user = kNobody});
  taken.check_runs_again({"--isolated"});
  CHECK(taken.objects.count() == 7);
}

TEST_CASE("an ordinary user's tree finds its System V objects, or says that they are gone") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  const Taken taken({.user = kNobody}, {"--by-key-only"});
  CHECK(taken.objects.count() == 8);
  taken.check_runs_again();
  CHECK(taken.objects.count() == 0);
  const Result refused = run_again(taken.image, {}, {.user = kNobody});
  INFO(refused);
  CHECK(refused.status == 1);
  for (const std::string& id : taken.objects.sets)
    CHECK(contains(refused.err, fmt::format("System V semaphores {}: only root", id)));
}

TEST_CASE("System V objects whose keys or numbers others have now are in the way") {
  if (skip_unless(geteuid() == 0, kOnlyRoot)) return;
  const Taken taken;
  const int set = std::stoi(taken.objects.sets[0]), queue = std::stoi(taken.objects.queues[0]);
  semid_ds status{};
  REQUIRE(semctl(set, 0, IPC_STAT, &status) == 0);
  taken.objects.remove();
  const int other = semget(status.sem_perm.__key, 1, IPC_CREAT | IPC_EXCL | 0600);
  std::ofstream("/proc/sys/kernel/msg_next_id") << queue << std::flush;
  CHECK(msgget(IPC_PRIVATE, 0600) == queue);
  const Result refused = run_again(taken.image);
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, fmt::format("is that of number {} now", other)));
  CHECK(contains(refused.err, fmt::format("System V message queue {}: its number is another one's "
                                          "now",
                                          queue)));
  CHECK(taken.objects.count() == 1);
  taken.check_runs_again({"--isolated"});
  CHECK(semctl(other, 0, IPC_RMID) == 0);
}

TEST_CASE("a tree with an ipc namespace of its own gets one again, with all that was in it") {
  if (skip_unless(geteuid() == 0, "another ipc namespace takes root")) return;
  const Taken taken({.before_exec = [] { unshare(CLONE_NEWIPC); }});
  CHECK(taken.objects.count() == 0);
  for (const Words& options : {Words{}, Words{"--isolated"}}) {
    taken.check_runs_again(options);
    CHECK(taken.objects.count() == 0);
  }
}

// What /proc shows of it has the inode 0, as what has no file; and no page of it was touched where
// it is attached now.
TEST_CASE(
    "the first shared memory of an ipc namespace, which has the number 0, keeps its content") {
  if (skip_unless(geteuid() == 0, "another ipc namespace takes root")) return;
  const TempDir directory;
  Running python({"python3", "-c",
                  "import ctypes, sys\n"
                  "libc = ctypes.CDLL(None, use_errno=True)\n"
                  "libc.shmat.restype = ctypes.c_void_p\n"
                  "segment = libc.shmget(0, 40960, 0o600)\n"
                  "filled = libc.shmat(segment, None, 0)\n"
                  "ctypes.memset(filled, 0x5a, 40960); libc.shmdt(ctypes.c_void_p(filled))\n"
                  "where = libc.shmat(segment, None, 0)\n"
                  "print('ready', segment, flush=True); sys.stdin.read()\n"
                  "content = ctypes.string_at(where, 40960)\n"
                  "sys.exit(0 if content == b'Z' * 40960 else 1)\n"},
                 {.input = RunOptions::kPipe, .before_exec = [] { unshare(CLONE_NEWIPC); }});
  CHECK(python.wait_for_line("ready") == "ready 0");
  take_away(python, directory / "image");
  for (const Words& how : {Words{}, Words{"--isolated"}}) {
    const Result end = run_again(directory / "image", how);
    INFO(end);
    CHECK(end.ok());
  }
}

// Two namespaces below, the objects of which have the same numbers; and a third that was left
// again.
constexpr const char* kBelow = R"(
exec 3<&0  # jobs have none of their own
unshare $HOW "$SYSTEM_V" $OPTIONS <&3 >first & first=$!
unshare $HOW "$SYSTEM_V" $OPTIONS <&3 >second & second=$!
unshare $HOW "$QUEUES" <&3 >third & third=$!
until grep -q ready first && grep -q ready second && grep -q ready third; do sleep 0.01; done
cmp first second && echo ready
wait $first && wait $second && wait $third && echo all there
)";

void check_below(const std::string& how, const std::string& options, std::optional<uid_t> user) {
  const TempDir directory;
  std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Running running({"sh", "-c", kBelow}, {.input = RunOptions::kPipe,
                                         .directory = directory.path(),
                                         .environment = {{"TMPDIR", directory.path()},
                                                         {"HOW", how},
                                                         {"OPTIONS", options},
                                                         {"SYSTEM_V", target_path("system_v")},
                                                         {"QUEUES", target_path("message_queues")}},
                                         .user = user});
  running.wait_for_line("ready");
  take_away(running, directory / "image", {.user = user});
  write_file(directory / "restored", "");
  for (const Words& way : {Words{}, Words{"--isolated"}, Words{"--lazy"}}) {
    CAPTURE(how, way);
    const Result end = run_again(directory / "image", way, {.user = user});
    INFO(end);
    CHECK(end.ok());
    CHECK(contains(end.out, "all there"));
  }
}

TEST_CASE("each ipc namespace below gets back what was in it") {
  if (skip_unless(geteuid() == 0, "another ipc namespace takes root")) return;
  check_below("-i", "", std::nullopt);
  check_below("-Uri", "--by-key-only", std::nullopt);
}

TEST_CASE("so do an ordinary user's, who is root there") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  check_below("-Uri", "--by-key-only", kNobody);
}

// It keeps what it attached, and has segments of the same number in its own namespace.
constexpr const char* kLeft = R"(
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
def attached(key):
    return (ctypes.c_char * 4096).from_address(libc.shmat(libc.shmget(key, 4096, 0o1600), None, 0))
common = attached(0x1234)
child = os.fork()
if child == 0:
    libc.unshare(0x08000000)  # CLONE_NEWIPC
    own = attached(0x5678)
    own.value = b"its own"
    print("ready", flush=True)
    os.read(0, 5)
    common.value = own.value
    os._exit(0)
os.waitpid(child, 0)
print(common.value.decode())
)";

TEST_CASE("who has left an ipc namespace still shares what it attached there") {
  if (skip_unless(geteuid() == 0, "another ipc namespace takes root")) return;
  const TempDir directory;
  Running python({"unshare", "-i", "python3", "-c", kLeft}, {.input = RunOptions::kPipe});
  python.wait_for_line("ready");
  take_away(python, directory / "image");
  for (const Words& way : {Words{}, Words{"--isolated"}, Words{"--lazy"}}) {
    CAPTURE(way);
    const Result end = run_again(directory / "image", way, {}, "line\n");
    INFO(end);
    CHECK(end.out == "its own\n");
  }
}

TEST_CASE("semaphores and queues that a thread only waits for are the tree's, too") {
  const TempDir directory;
  Running python(
      {"python3", "-c",
       "import ctypes, sys, threading\n"
       "libc = ctypes.CDLL(None, use_errno=True)\n"
       "s = libc.semget(0, 1, 0o600); q = libc.msgget(0, 0o600); got = []\n"
       "down, up = b'\\0\\0\\xff\\xff\\0\\0', b'\\0\\0\\1\\0\\0\\0'\n"
       "def insist(call):\n"
       "  while (n := call()) < 0 and ctypes.get_errno() == 4: pass\n"
       "  got.append(n)\n"
       "buffer = ctypes.create_string_buffer(64)\n"
       "calls = [lambda: libc.semop(s, down, 1), lambda: libc.msgrcv(q, buffer, 50, 0, 0)]\n"
       "threads = [threading.Thread(target=insist, args=[call]) for call in calls]\n"
       "for t in threads:\n"
       "  t.start(); path = f'/proc/self/task/{t.native_id}/syscall'\n"
       "  while open(path).read().split()[0] not in ('65', '220', '70'): pass\n"
       "print('sem', s); print('msg', q); print('ready', flush=True); sys.stdin.read()\n"
       "libc.semop(s, up, 1); libc.msgsnd(q, b'\\1' + bytes(7) + b'hello', 5, 0)\n"
       "for t in threads: t.join()\n"
       "libc.semctl(s, 0, 0); libc.msgctl(q, 0, None); print(sorted(got))\n"},
      {.input = RunOptions::kPipe});
  python.wait_for_line("ready");
  const auto number_of = [&](const char* word) {
    return std::stoi(python.wait_for_line(word).substr(4));
  };
  take_away(python, directory / "image");
  CHECK(semctl(number_of("sem"), 0, IPC_RMID) == 0);
  CHECK(msgctl(number_of("msg"), IPC_RMID, nullptr) == 0);
  const Result end = run_again(directory / "image", {"--isolated"});
  INFO(end);
  CHECK(end.out == "[0, 5]\n");
}

TEST_CASE("a restore that fails leaves no System V objects behind") {
  if (skip_unless(geteuid() == 0, kOnlyRoot)) return;
  const Taken taken;
  taken.objects.remove();
  const Result failed = run_again(taken.image, {}, {.before_exec = [] {
                                    // Descriptors above those of the tree are what the keeper
                                    // needs.
                                    const rlimit few{.rlim_cur = 20, .rlim_max = 20};
                                    setrlimit(RLIMIT_NOFILE, &few);
                                  }});
  INFO(failed);
  CHECK(contains(failed.err, "Too many open files"));
  CHECK(taken.objects.count() == 0);
}

}  // namespace
}  // namespace snapgdb::e2e
