// snapgdb restore: pseudoterminals whose masters are in the tree.

#include <unistd.h>
#include <catch2/catch.hpp>

#include <filesystem>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

// Twice; the program checks itself at its end.
void check_restored(const Words& options, std::optional<uid_t> user = {}) {
  const TempDir directory;
  if (user) std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Target target("terminals", {"--queues"}, {.user = user});
  take_away(target.running(), directory / "image", {.user = user});
  for (int round = 0; round < 2; ++round) {
    const Result end = run_in_its_terminals(directory / "image", options, {.user = user});
    INFO(end);
    CHECK(end.ok());
  }
}

TEST_CASE("terminals of the tree's own come back with their settings, sessions and groups") {
  check_restored({});
}

TEST_CASE("so they do in a sandbox") {
  check_restored({"--isolated"});
}

TEST_CASE("and so do those of an ordinary user") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  check_restored({}, kNobody);
  check_restored({"--isolated"}, kNobody);
}

// A shell with job control below a master; what it is told after the restore, it does.
TEST_CASE("a shell goes on in its terminal, and brings a stopped job to the foreground") {
  const TempDir directory;
  Running python({"python3", "-c",
                  "import os, pty, sys\n"
                  "pid, fd = pty.fork()\n"
                  "if pid == 0: os.execlp('bash', 'bash', '--norc', '-i')\n"
                  "def until(text):\n"
                  "  seen = b''\n"
                  "  while text not in seen: seen += os.read(fd, 4096)\n"
                  "os.write(fd, b\"PS1=; sh -c 'kill -STOP $$; echo went''-on'\\n\")\n"
                  "until(b'Stopped')\n"
                  "os.write(fd, b\"echo is''-idle\\n\"); until(b'is-idle\\r\\n')\n"
                  "print('ready', flush=True); sys.stdin.read()\n"
                  "os.write(fd, b'fg\\n'); until(b'went-on\\r\\n')\n"
                  "os.write(fd, b'exit 7\\n')\n"
                  "try:\n"
                  "  while os.read(fd, 4096): pass\n"
                  "except OSError: pass\n"
                  "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"},
                 {.input = RunOptions::kPipe});
  python.wait_for_line("ready");
  take_away(python, directory / "image");
  for (const Words& options : {Words{}, Words{"--isolated"}}) {
    const Result end = run_again(directory / "image", options);
    INFO(end);
    CHECK(end.status == 7);
  }
}

// What a program set is set again in the terminal of whoever restores, or has a debugger do it, and
// put back at the end.
constexpr const char* kInTerminal = R"(import os, pty, subprocess, sys, termios
snapgdb, image = sys.argv[1:]
child = ("import os, sys, termios, tty\n"
         "tty.setcbreak(0); print('ready', flush=True); c = os.read(0, 1)\n"
         "print('got', c, termios.tcgetattr(0)[3] & termios.ICANON, flush=True)\n")
def until(fd, text):
    seen = b''
    while text not in seen: seen += os.read(fd, 4096)
def start(command):
    pid, fd = pty.fork()
    if pid == 0: os.execvp(command[0], command)
    return pid, fd
pid, fd = start(['python3', '-c', child])
until(fd, b'ready\r\n')
subprocess.run([snapgdb, 'capture', str(pid), '-o', image, '--all-memory', '--kill'], check=True, stdout=2)
os.waitpid(pid, 0); os.close(fd)
socket = image + '-socket'
for how in [['restore'], ['restore', '--isolated'], ['serve', '--once', '--program-streams', '--listen', 'unix:' + socket]]:
    pid, fd = start(['sh', '-c', '"$@"; status=$?; stty -a | grep -qw -- -icanon && echo is-raw; echo is-"end" $status; read x', 'sh', snapgdb, *how, image])
    if how[0] == 'serve':
        until(fd, b'listening')
        gdb = subprocess.Popen(['gdb', '-nx', '-batch', '-ex', 'target remote ' + socket, '-ex', 'continue'], stdin=subprocess.DEVNULL, stdout=2)
    while termios.tcgetattr(fd)[3] & termios.ICANON: pass
    os.write(fd, b'x')
    seen = b''
    while b'is-end' not in seen: seen += os.read(fd, 4096)
    if b"got b'x' 0" not in seen or b'is-raw' in seen or b'is-end 0' not in seen: sys.exit(seen)
    os.write(fd, b'\n'); os.close(fd); os.waitpid(pid, 0)
gdb.wait()
)";

// A job of a shell's, restored from a shell, is one of that shell's.
constexpr const char* kAsJob = R"PY(import os, pty, re, subprocess, sys
snapgdb, image = sys.argv[1:]
job = ("import os, sys; print('ready', os.getpid(), flush=True)\n"
       "for line in sys.stdin: print('got', line.strip(), flush=True)")
pid, fd = pty.fork()
if pid == 0: os.execvp('bash', ['bash', '--norc', '-i'])
seen = b''
def until(text):
    global seen
    while not re.search(text, seen): seen += os.read(fd, 4096)
    found = re.search(text, seen)
    seen = seen[found.end():]
    return found
def say(text): os.write(fd, text.encode())
say("PS1=; stty -echo; echo is-'quiet'\n"); until(b'is-quiet\r\n')
say("exec 3<<'END'\n" + job + "\nEND\npython3 -c \"$(cat <&3)\"\n")
first = until(rb'ready (\d+)\r\n').group(1).decode()
subprocess.run([snapgdb, 'capture', first, '-o', image, '--all-memory', '--kill'], check=True, stdout=2)
until(b'Killed')
for options in '', '--isolated':
    say(f'{snapgdb} restore {options} {image}\n')
    say('one\n'); until(b'got one\r\n')
    for turn in 'two', 'three':
        say('\x1a'); until(b'Stopped')
        say("echo is-'back'\n"); until(b'is-back\r\n')
        say('fg\n'); say(turn + '\n'); until(b'got ' + turn.encode() + b'\r\n')
    say('\x04'); say("echo status-'is' $?\n"); until(b'status-is 0\r\n')
    say(f'{snapgdb} restore {options} {image} & sleep 1\n')
    say('\n'); until(b'Stopped')
    say('fg\n'); say('four\n'); until(b'got four\r\n')
    say('\x04'); say("echo status-'is' $?\n"); until(b'status-is 0\r\n')
say('exit\n')
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
)PY";

TEST_CASE("a restored job stops at ^Z, and is the shell's to bring back") {
  const TempDir directory;
  const Result end = run({"python3", "-c", kAsJob, program(), directory / "image"});
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("a program that reads key by key does so in the terminal of its restore") {
  const TempDir directory;
  const Result end = run({"python3", "-c", kInTerminal, program(), directory / "image"});
  INFO(end);
  CHECK(end.ok());
}

// Of its own, with both sides; 0x40045431 is TIOCSPTLCK, 0x80045430 TIOCGPTN.
constexpr const char* kPairs =
    "import termios, tty\n"
    "def pair(flags=0, echo=False):\n"
    "  m = os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY | flags)\n"
    "  fcntl.ioctl(m, 0x40045431, struct.pack('i', 0))\n"
    "  n = struct.unpack('I', fcntl.ioctl(m, 0x80045430, bytes(4)))[0]\n"
    "  s = os.open(f'/dev/pts/{n}', os.O_RDWR | os.O_NOCTTY | flags)\n"
    "  a = termios.tcgetattr(s)\n"
    "  if not echo: a[3] &= ~termios.ECHO\n"
    "  termios.tcsetattr(s, termios.TCSANOW, a)\n"
    "  return m, s\n"
    "def fails(work):\n"
    "  try: return work()\n"
    "  except OSError as e: return e.strerror\n";

TEST_CASE("the end of a file waits in a terminal again, and ends a line there") {
  TakenPython reader(
      std::string(kPairs) +
          "line_m, line = pair(os.O_NONBLOCK); os.write(line_m, "
          "b'part\\x04next\\n\\x04\\x04rest')\n"
          "alone_m, alone = pair(os.O_NONBLOCK); os.write(alone_m, b'\\x04')\n"
          "time.sleep(0.1)",
      "assert [fails(lambda: os.read(line, 99)) for _ in range(5)] == [\n"
      "  b'part', b'next\\n', b'', b'', 'Resource temporarily unavailable']\n"
      "os.write(line_m, b'\\n'); time.sleep(0.1); assert os.read(line, 99) == b'rest\\n'\n"
      "assert os.read(alone, 99) == b''\n"
      "assert fails(lambda: os.read(alone, 99)) == 'Resource temporarily unavailable'");
  reader.take();
  reader.check_runs_again();
}

TEST_CASE("output that was stopped is stopped, and started by whoever could start it") {
  TakenPython writer(
      std::string(kPairs) +
          "m, s = pair(os.O_NONBLOCK); termios.tcflow(s, termios.TCOOFF)\n"
          "tm, ts = pair(os.O_NONBLOCK); os.write(tm, b'\\x13'); time.sleep(0.1)\n"
          "pm, ps = pair(os.O_NONBLOCK); fcntl.ioctl(pm, termios.TIOCPKT, struct.pack('i', 1))\n"
          "termios.tcflow(ps, termios.TCOOFF)",
      "for stopped in s, ts, ps:\n"
      "  assert fails(lambda: os.write(stopped, b'x')) == 'Resource temporarily unavailable'\n"
      "termios.tcflow(s, termios.TCOON); assert os.write(s, b'x') == 1\n"
      "os.write(tm, b'\\x11'); time.sleep(0.1); assert os.write(ts, b'x') == 1\n"
      "assert os.read(pm, 9) == bytes([termios.TIOCPKT_STOP])\n"
      "assert fails(lambda: os.read(pm, 9)) == 'Resource temporarily unavailable'");
  writer.take();
  writer.check_runs_again();
}

TEST_CASE("a terminal that nobody could write to any more is as full as it was") {
  TakenPython full(
      std::string(kPairs) +
          "m, s = pair(os.O_NONBLOCK); tty.setraw(s)\n"
          "def fill(fd):\n"
          "  done = 0\n"
          "  try:\n"
          "    while True: done += os.write(fd, bytes([done % 251]) * 1000)\n"
          "  except BlockingIOError: return done\n"
          "there = [0, 0]\n"
          "for _ in range(2): there = [there[0] + fill(m), there[1] + fill(s)]; time.sleep(0.1)",
      "def drain(fd):\n"
      "  got = 0\n"
      "  while select.select([fd], [], [], 0.3)[0]: got += len(os.read(fd, 65536))\n"
      "  return got\n"
      "assert [drain(s), drain(m)] == there, there");
  full.take();
  full.check_runs_again();
}

constexpr const char* kHungUp =
    "m, s = pair(); twice = os.open(os.ttyname(s), os.O_RDONLY | os.O_NOCTTY); os.close(m)";
constexpr const char* kIsHungUp =
    "assert os.read(s, 9) == b'' and os.read(twice, 9) == b''\n"
    "assert fails(lambda: os.write(s, b'x')) == 'Input/output error'\n"
    "assert os.readlink(f'/proc/self/fd/{s}').startswith('/dev/pts/')";

TEST_CASE("a terminal whose master is closed is hung up still") {
  TakenPython holder(std::string(kPairs) + kHungUp, kIsHungUp);
  holder.take();
  holder.check_runs_again();
}

TEST_CASE("so is an ordinary user's") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  TakenPython holder(std::string(kPairs) + kHungUp, kIsHungUp, {.user = kNobody});
  holder.take({.user = kNobody});
  holder.check_runs_again({.user = kNobody});
}

TEST_CASE("a terminal with a line discipline that keeps nothing has lost nothing") {
  TakenPython holder(
      std::string(kPairs) +
          "m, s = pair(os.O_NONBLOCK); os.write(s, b'before')\n"
          "fcntl.ioctl(s, termios.TIOCSETD, struct.pack('i', 27))",  // N_NULL
      "assert struct.unpack('i', fcntl.ioctl(s, termios.TIOCGETD, bytes(4)))[0] == 27\n"
      "assert os.read(m, 99) == b'before'");
  holder.take();
  holder.check_runs_again();
}

}  // namespace
}  // namespace snapgdb::e2e
