// snapgdb restore: what programs, threads and memory are, of small programs.

#include <fmt/format.h>
#include <linux/keyctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

namespace fs = std::filesystem;

TEST_CASE("a program whose executable was removed or replaced while it ran goes on") {
  for (const bool replaced : {false, true}) {
    CAPTURE(replaced);
    const TempDir directory;
    const std::string copy = directory / "python", image = directory / "image";
    fs::copy_file(fs::canonical("/usr/bin/python3"), copy);
    Running running({copy, "-c",
                     "import os, sys; print('ready', flush=True); sys.stdin.read()\n"
                     "print(os.readlink('/proc/self/exe'))"},
                    {.input = RunOptions::kPipe});
    running.wait_for_line("ready");
    fs::remove(copy);
    if (replaced) write_file(copy, "another one");
    take_away(running, image);
    for (const Words& how : {Words{}, Words{"--isolated"}}) {
      CAPTURE(how);
      const Result end = run_again(image, how);
      INFO(end);
      CHECK(end.ok());
      CHECK(contains(end.out, directory.path()));
    }
    const Result called =
        gdb({"target remote | " + program() + " " + image, "print 40 + (int)abs(-2)"});
    INFO(called);
    CHECK(contains(called.out, "= 42"));
  }
}

bool has_guards() {
  constexpr int kInstall = 102;  // MADV_GUARD_INSTALL, Linux 6.13
  void* page = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const bool works = madvise(page, 4096, kInstall) == 0;
  munmap(page, 4096);
  return works;
}

TEST_CASE("guard pages in much memory are guard pages again, and nothing is missing") {
  if (skip_unless(has_guards(), "this kernel has no guard pages")) return;
  TakenPython guarded(
      "import mmap\n"
      "m = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
      "for at in range(0, 64 << 20, 4096): m[at] = 1 + at // 4096 % 255\n"
      "start = ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
      "guards = [7, 4000, 4001, 16383]\n"
      "for page in guards:\n"
      "  assert libc.madvise(ctypes.c_void_p(start + page * 4096), 4096, 102) == 0",
      "class Vector(ctypes.Structure): _fields_ = [('at', ctypes.c_void_p), ('n', "
      "ctypes.c_size_t)]\n"
      "def byte_of(page):\n"
      "  out = ctypes.create_string_buffer(1)\n"
      "  to = Vector(ctypes.addressof(out), 1); at = Vector(start + page * 4096, 1)\n"
      "  n = libc.process_vm_readv(os.getpid(), ctypes.byref(to), 1, ctypes.byref(at), 1, 0)\n"
      "  return out.raw[0] if n == 1 else None\n"
      "for page in range(64 << 8):\n"
      "  assert byte_of(page) == (None if page in guards else 1 + page % 255), page");
  guarded.take();  // which checks that nothing is missing
  guarded.check_runs_again();
}

TEST_CASE("where a thread gets memory from, and that memory is merged, are what they were") {
  TakenPython program(
      "mode, nodes = ctypes.c_int(), (ctypes.c_ulong * 16)()\n"
      "def policy():\n"
      "  assert libc.syscall(239, ctypes.byref(mode), nodes, 1024, None, 0) == 0\n"
      "  return mode.value, nodes[0]\n"
      "one = ctypes.c_ulong(1)\n"
      "has_nodes = libc.syscall(238, 1, ctypes.byref(one), 65) == 0\n"  // MPOL_PREFERRED
      "merges = libc.prctl(67, 1, 0, 0, 0) == 0",
      "if has_nodes: assert policy() == (1, 1), policy()\n"
      "if merges: assert libc.prctl(68, 0, 0, 0, 0) == 1");
  program.take();
  program.check_runs_again();
}

TEST_CASE("what is mapped later is locked, if mlockall(2) said so, at once or as it is used") {
  constexpr int kOnFault = 4;  // MCL_ONFAULT
  for (const int flags : {MCL_FUTURE, MCL_FUTURE | kOnFault}) {
    CAPTURE(flags);
    TakenPython program(fmt::format("import mmap\nFLAGS = {}\n", flags) +
                            R"PY(
def is_locked(size):
  memory = mmap.mmap(-1, size)
  at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
  for line in open('/proc/self/smaps'):
    words = line.split()
    if '-' in words[0]:
      start, end = (int(number, 16) for number in words[0].split('-'))
    elif words[0] == 'VmFlags:' and start <= at < end:
      return ('lo' in words) + ('lf' in words)
libc.sbrk.restype = ctypes.c_void_p
assert libc.mlockall(FLAGS) == 0
kept = mmap.mmap(-1, 1 << 16); kept[0] = 1
assert is_locked(1 << 20) == (2 if FLAGS & 4 else 1)
at = libc.sbrk(0))PY",
                        "assert libc.sbrk(0) == at\n"
                        "locked = is_locked(3 << 20)\n"
                        "assert locked == (2 if FLAGS & 4 else 1), locked\n");
    program.take();
    program.check_runs_again();
  }
}

// Interval and POSIX timers, one that signals nobody, and one whose interval is all that is left.
constexpr const char* kTimers = R"PY(
def set_timer(how, number):
  timer = ctypes.c_void_p()
  event = struct.pack('qii48x', 0, number, how)
  assert libc.timer_create(time.CLOCK_MONOTONIC, event, ctypes.byref(timer)) == 0
  times = struct.pack('4q', 0, int(PERIOD * 1e9), 0, 10**7)
  assert libc.timer_settime(timer, 0, times, None) == 0
  return timer
def is_set(timer):
  value = ctypes.create_string_buffer(32)
  assert libc.timer_gettime(timer, value) == 0
  return any(struct.unpack('4q', value.raw)[2:])
numbers = {signal.SIGALRM, signal.SIGRTMIN}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
silent, posix = set_timer(1, 0), set_timer(0, signal.SIGRTMIN)  # SIGEV_NONE, SIGEV_SIGNAL
signal.setitimer(signal.ITIMER_REAL, 0.01, PERIOD)
signal.setitimer(signal.ITIMER_VIRTUAL, 0, 0.5)
while not numbers <= signal.sigpending() or (not PERIOD and is_set(silent)): time.sleep(0.01))PY";

constexpr const char* kTimersGoOn = R"PY(
for number in numbers:
  for times in range(3 if PERIOD else 1):
    assert signal.sigtimedwait({number}, 30), (number, times)
assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0.5), signal.getitimer(signal.ITIMER_VIRTUAL)
assert is_set(silent) == (PERIOD > 0)
if not PERIOD:
  assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
  assert not is_set(posix) and not numbers & signal.sigpending()
)PY";

TEST_CASE("timers whose signal waited go on if they are periodic, and are over if they are not") {
  for (const char* period : {"0.01", "0"}) {
    CAPTURE(period);
    TakenPython program(fmt::format("PERIOD = {}\n", period) + kTimers, kTimersGoOn);
    program.take();
    program.check_runs_again();
  }
}

TEST_CASE("an isolated tree has no access to the session keyring of who restores it") {
  if (skip_unless(syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 1) >= 0,
                  "keyctl(2) is refused here"))
    return;
  TakenPython program(
      "",
      "key = libc.syscall(250, 10, -3, b'user', b'of the outside', 0)\n"  // KEYCTL_SEARCH
      "print('found' if key >= 0 else 'not found', flush=True)");
  program.take();
  const RunOptions with_key{.before_exec = [] {
    syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr);
    syscall(SYS_add_key, "user", "of the outside", "x", 1, KEY_SPEC_SESSION_KEYRING);
  }};
  CHECK(run_again(program.image, {"--isolated"}, with_key).out == "not found\n");
  // As a program that is started there would have.
  CHECK(run_again(program.image, {}, with_key).out == "found\n");
}

// A file system in memory that only the tree has.
const std::string kOwnMemory =
    "assert libc.unshare(0x20000) == 0\n"                           // of mounts
    "assert libc.mount(b'none', b'/', None, 0x44000, None) == 0\n"  // MS_REC | MS_PRIVATE
    "place = directory + '/own'; os.mkdir(place)\n"
    "assert libc.mount(b'none', place.encode(), b'tmpfs', 0, None) == 0\n";

TEST_CASE("attributes in memory are what they were, also of links; isolated, some are named") {
  if (skip_unless(geteuid() == 0, "mounting takes root")) return;
  TakenPython program(
      kOwnMemory +
          "os.mkdir(place + '/file'); os.symlink('nowhere', place + '/link')\n"
          "names = [place + '/file', place + '/link']\n"
          "for n in names: os.setxattr(n, 'trusted.x', b'y', follow_symlinks=False)",
      "for n in names: print(os.listxattr(n, follow_symlinks=False), flush=True)");
  program.take();
  const Result plain = run_again(program.image);
  INFO(plain);
  CHECK(plain.out == "['trusted.x']\n['trusted.x']\n");
  const Result isolated = run_again(program.image, {"--isolated"});
  CHECK(isolated.ok());
  check_says(isolated,
             {"the attribute trusted.x of /", "(and 1 more), in a file system in memory"});
}

TEST_CASE("an overlay of what only the tree had in memory is in the way for that reason") {
  if (skip_unless(geteuid() == 0, "mounting takes root")) return;
  TakenPython program(
      kOwnMemory +
          "for name in ['lower', 'upper', 'work', 'all']: os.mkdir(f'{place}/{name}')\n"
          "layers = f'lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work'\n"
          "assert libc.mount(b'none', (place + '/all').encode(), b'overlay', 0,\n"
          "                  layers.encode()) == 0",
      "");
  program.take();
  const Result refused = run_again(program.image);
  CHECK(refused.status == 1);
  check_says(refused, {"/own/upper is in the tmpfs at", "which only the tree had"});
}

// In a mount namespace of its own, with two lower layers; `from`: their directory, as mount(2) is
// told. A file of the lowest is removed.
std::string with_overlay(const std::string& from) {
  return "os.chdir(directory)\n"
         "assert libc.unshare(0x20000) == 0\n"  // CLONE_NEWNS
         "assert libc.mount(b'none', b'/', None, 0x44000, None) == 0\n"
         "long = 'lower' + 'x' * 200\n"  // longer than what fsconfig(2) takes
         "for name in ['lower', long, 'upper', 'work', 'all']: os.mkdir(name)\n"
         "open('lower/gone', 'w'), open('lower/kept', 'w').write('lower')\n"
         "at = " +
         from +
         "\n"
         "layers = f'lowerdir={at}{long}:{at}lower,upperdir={at}upper,workdir={at}work'\n"
         "assert libc.mount(b'none', b'all', b'overlay', 0, layers.encode()) == 0\n"
         "os.unlink('all/gone')\n"
         "new = open('all/new', 'w+'); new.write('upper'), new.flush()";
}

TEST_CASE("an overlay whose layers were named from somewhere is in the way for that reason") {
  if (skip_unless(geteuid() == 0, "mounting takes root")) return;
  TakenPython program(with_overlay("''"), "");
  program.take();
  const Result refused = run_again(program.image);
  CHECK(refused.status == 1);
  check_says(refused, {"its layer upper was named from a directory that is not known"});
}

// Which the tree changes at its end: isolated, another time as well.
TEST_CASE("an overlay of the tree's own is mounted again, and in isolation its layers stay") {
  if (skip_unless(geteuid() == 0, "mounting takes root")) return;
  TakenPython program(with_overlay("directory + '/'"),
                      "assert sorted(os.listdir('all')) == ['kept', 'new']\n"
                      "assert open('all/kept').read() == 'lower'\n"
                      "assert open('all/new').read() == 'upper'\n"
                      "new.write(' and more'), new.close()\n"
                      "assert open('all/new').read() == 'upper and more'\n"
                      "os.unlink('all/kept')");
  program.take();
  for (const Words& how : {Words{"--isolated"}, Words{"--isolated"}, Words{}}) {
    CHECK(read_file(program.directory / "upper/new") == "upper");
    const Result end = run_again(program.image, how);
    INFO(end);
    CHECK(end.ok());
  }
  CHECK(read_file(program.directory / "upper/new") == "upper and more");
}

TEST_CASE("a tree that is captured in its sandbox is in the way with one line") {
  if (skip_unless(geteuid() == 0, "an ordinary user's capture lacks what only root may read"))
    return;
  TakenPython ticking(
      "def tick():\n"
      "  while True: os.write(1, b'tick\\n'); time.sleep(0.05)\n"
      "threading.Thread(target=tick, daemon=True).start()",
      "");
  take_away(ticking.running, ticking.image);
  Running sandbox({program(), "restore", "--isolated", ticking.image});
  sandbox.wait_for_line("tick");
  pid_t inside = 0;
  for (const pid_t pid : tree_of(sandbox.pid()))
    if (contains(read_file(fmt::format("/proc/{}/cmdline", pid)), "tick()")) inside = pid;
  const std::string again = ticking.directory / "again";
  capture(inside, again, {"--kill", "--all-memory"});
  sandbox.wait();
  const Result refused = run_again(again, {"--isolated"});
  CHECK(refused.status == 1);
  check_says(refused, {"the tree was captured in a sandbox", "--without mounts"});
  CHECK_FALSE(contains(refused.err, "what is mounted at"));
}

}  // namespace
}  // namespace snapgdb::e2e
