// gdb makes a snapshot run: what a person types, and what must come of it.

#include <catch2/catch.hpp>

#include "tests/e2e/moment.h"
#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

// ---- Calls, steps, breakpoints -----------------------------------------------------------------

TEST_CASE("functions can be called, and what they change is there afterwards") {
  const Moment moment("count");
  check_succeeds(moment.gdb_says({"print twice(21)", "print bump(5)", "print counter", "bt"}),
                 {"$1 = 42", "$2 = 5", "$3 = 5", "main"});
}

TEST_CASE("what was changed in the snapshot is carried over when it begins to run") {
  const Moment moment("count");
  check_succeeds(moment.gdb_says({"set var counter = 1000", "set var $r12 = 0x4711", "stepi",
                                  "print $r12", "break bump", "continue", "print counter"}),
                 {"$1 = 18193", "$2 = 1000"});
}

TEST_CASE("breakpoints, conditions, steps and finish work") {
  const Moment moment("count");
  check_succeeds(
      moment.gdb_says({"break bump if by == 7", "continue", "print by", "print counter", "finish",
                       "next", "delete", "tbreak at_end", "continue", "print counter", "continue"}),
      {"$1 = 7", "$2 = 21", "Value returned is $3 = 28", "$4 = 210", "exited normally"});
}

TEST_CASE("dprintf prints from within the stub, and nothing stops") {
  const Moment moment("count");
  const Result result = moment.gdb_says({"set dprintf-style agent", "dprintf bump,\"by %d\\n\", by",
                                         "condition 1 by > 18", "continue"});
  check_succeeds(result, {"by 19", "by 20", "exited normally"});
  CHECK_FALSE(contains(result.out, "by 18"));
}

TEST_CASE("a breakpoint of the processor stops before its instruction") {
  const Moment moment("count");
  check_succeeds(moment.gdb_says({"hbreak twice", "hbreak bump", "continue", "print by", "continue",
                                  "print by"}),
                 {"$1 = 1", "$2 = 2"});
}

TEST_CASE("watchpoints stop at the write, and at the access") {
  const Moment moment("count");
  check_succeeds(moment.gdb_says({"watch bytes[3]", "continue", "print counter"}),
                 {"Old value = 0", "New value = 7", "$1 = 210"});
  if (skip_unless(can_watch_natively(), "debug registers stop nobody here")) return;
  check_succeeds(
      moment.gdb_says({"awatch counter", "rwatch go", "continue", "continue", "continue"}),
      {"Value = 0", "New value = 1"});
}

TEST_CASE("a local variable is seen to change while another thread runs") {
  const Moment moment("locals");
  for (int round = 0; round < 3; ++round)
    check_succeeds(
        moment.gdb_says(
            {"break count_here", "continue", "watch local", "continue", "continue", "continue"}),
        {"New value = 11", "Old value = 11", "New value = 12", "Old value = 12", "New value = 13"});
}

TEST_CASE("a system call that was interrupted by the snapshot goes on after a function call") {
  const Moment moment("count");
  check_succeeds(moment.gdb_says({"print twice(1)", "print twice(2)", "continue"}),
                 {"$1 = 2", "$2 = 4", "exited normally"});
}

// ---- Signals ------------------------------------------------------------------------------------

TEST_CASE("signals are shown with what they carry, passed on, and kept back") {
  const Moment moment("signals");
  check_succeeds(moment.gdb_says({"continue", "print $_siginfo._sifields._rt.si_sigval.sival_int",
                                  "continue", "continue", "continue"}),
                 {"SIGUSR1", "$1 = 1", "exited normally"});
  check_succeeds(moment.gdb_says({"continue", "signal 0", "continue", "continue"}),
                 {"exited with code 01"});
  check_succeeds(moment.gdb_says({"handle SIGUSR1 nostop noprint pass", "continue"}),
                 {"exited normally"});
}

TEST_CASE("a function can be called while faults are the program's own affair") {
  const Moment moment("count");
  check_succeeds(
      moment.gdb_says({"handle SIGSEGV nostop noprint pass", "handle SIGILL nostop noprint pass",
                       "print twice(21)", "print counter", "continue"}),
      {"$1 = 42", "$2 = 0", "exited normally"});
}

TEST_CASE("what a signal carries can be changed before the program gets it") {
  const Moment moment("signals");
  check_succeeds(
      moment.gdb_says({"continue", "set var $_siginfo._sifields._rt.si_sigval.sival_int = 40",
                       "tbreak at_end", "handle SIGUSR1 nostop", "continue", "print handled"}),
      {"$1 = 45"});
}

// debuggee, captured while job control had it stopped.
struct JobStopped {
  JobStopped() {
    stop({target.pid()});
    capture(target.pid(), image);
    resume({target.pid()});
  }
  std::string connect() const { return connect_to(image); }

  const Target target{"debuggee", {"--do", "count"}};
  const TempDir directory;
  const std::string image = directory / "image.snapgdb";
};

TEST_CASE("a program that job control had stopped says so, and goes on by SIGCONT") {
  const JobStopped moment;
  check_succeeds(gdb({moment.connect(), "set var go = 1", "break bump", "signal SIGCONT", "bt 1"}),
                 {"stays stopped by job control", "Breakpoint 1, bump"});
}

TEST_CASE(
    "functions of a program that job control had stopped can be called, and it stays stopped") {
  const JobStopped moment;
  check_succeeds(
      gdb({moment.connect(), "print twice(21)", "set var go = 1", "print twice(4)", kInterruptSoon,
           "continue", "print counter", "print twice(5)", "break bump", "signal SIGCONT", "bt 1"}),
      {"$1 = 42", "$2 = 8", "SIGINT", "$3 = 0", "$4 = 10", "Breakpoint 1, bump"});
}

TEST_CASE("after a function call, nothing is left of the trap that has ended it") {
  const Moment moment("signals");
  const Result result = moment.gdb_says(
      {"print twice(1)", "print $_siginfo.si_signo", "continue", "print twice(2)",
       "print $_siginfo._sifields._rt.si_sigval.sival_int", "print $_siginfo.si_signo"});
  check_succeeds(result, {"$1 = 2", "SIGUSR1", "$2 = 4", "$3 = 1", "$4 = 10"});
}

// The program's own comes to light when gdb's is taken out, for the thread to go past it.
TEST_CASE("a breakpoint that is passed may stand on one of the program's own") {
  TakenPython program(
      "import mmap\n"
      "page = mmap.mmap(-1, 4096, prot=7)\n"
      "page.write(b'\\x90\\xcc\\x90\\xc3')\n"  // nop, int3, nop, ret
      "at = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
      "struck = []\n"
      "signal.signal(signal.SIGTRAP, lambda *_: struck.append(1))\n"
      "open(directory + '/at', 'w').write(hex(at + 1))",
      "ctypes.CFUNCTYPE(None)(at)()\n"
      "sys.exit(5 - len(struck))");
  program.take();
  const std::string connect = connect_to(program.image);
  const std::string place = "break *" + read_file(program.directory / "at");
  check_succeeds(gdb({connect, place + " if 0", "continue"}), {"exited with code 05"});
  check_succeeds(gdb({connect, place, "continue", "continue"}), {"Breakpoint 1", "exited with"});
}

TEST_CASE("who waits for the end of a pipe or a socket hears of it") {
  TakenPython program(
      "read, write = os.pipe()\n"
      "unread, unwritten = os.pipe()\n"
      "one, other = socket.socketpair()",
      "os.close(write), os.close(unread), other.close()\n"
      "ends = [os.read(read, 1), one.recv(1)]\n"
      "try: os.write(unwritten, b'x')\n"
      "except BrokenPipeError: sys.exit(5 if ends == [b'', b''] else 6)");
  program.take();
  const std::string connect = connect_to(program.image);
  check_succeeds(gdb({connect, "handle SIGPIPE nostop", "continue"}), {"exited with code 05"});
}

// kill(2) finds zombies.
TEST_CASE("orphans of a tree that runs under gdb vanish when they end") {
  TakenPython program("",
                      "read, write = os.pipe()\n"
                      "if os.fork() == 0:\n"
                      "  orphan = os.fork()\n"
                      "  if orphan: os.write(write, str(orphan).encode())\n"
                      "  os._exit(0)\n"
                      "os.wait()\n"
                      "orphan = int(os.read(read, 20))\n"
                      "try:\n"
                      "  while True: os.kill(orphan, 0), time.sleep(0.01)\n"
                      "except ProcessLookupError: sys.exit(5)");
  program.take();
  const std::string connect = connect_to(program.image);
  check_succeeds(gdb({connect, "continue"}), {"exited with code 05"});
}

TEST_CASE("a program that crashes can be looked at, and ends by its signal") {
  const Moment moment("crash");
  check_succeeds(
      moment.gdb_says(
          {"continue", "print $_siginfo._sifields._sigfault.si_addr", "bt 1", "continue"}),
      {"SIGSEGV", "$1 = (void *) 0x10", "crash", "Program terminated with signal SIGSEGV"});
}

TEST_CASE("^C stops a program that blocks every signal") {
  const Moment moment("block");
  check_succeeds(
      moment.gdb_says({kInterruptSoon, "continue", "print go", "set var go = 2", "continue"}),
      {"SIGINT", "$1 = 1", "exited normally"});
}

TEST_CASE("system calls are caught at their entry and at their return") {
  const Moment moment("signals");
  check_succeeds(
      moment.gdb_says({"handle SIGUSR1 nostop noprint pass", "catch syscall rt_sigqueueinfo",
                       "continue", "continue", "delete", "continue"}),
      {"call to syscall rt_sigqueueinfo", "returned from syscall rt_sigqueueinfo",
       "exited normally"});
}

// ---- Input and output ---------------------------------------------------------------------------

TEST_CASE("the program's output is shown, and it can be given input") {
  const Moment moment("speak", {.input = RunOptions::kPipe});
  check_succeeds(
      moment.gdb_says({"tbreak fgets", "continue", "monitor input good morning", "continue"}),
      {"heard good morning", "and says so", "exited normally"});
}

TEST_CASE("a program may have the streams of the stub, which ends with its one debugger") {
  const Moment moment("speak", {.input = RunOptions::kPipe});
  Running server({program(), "serve", moment.image, "--once", "--program-streams", "--listen",
                  "unix:" + moment.directory / "socket"},
                 {.input = RunOptions::kPipe});
  await_listening(server);
  server.write("good evening\n");
  const Result says = gdb({"target remote " + moment.directory / "socket", "set var go = 1",
                           "monitor input not this way", "continue"});
  check_succeeds(says, {"it reads from the standard input of the stub", "exited normally"});
  CHECK_FALSE(contains(says.out, "heard"));
  const Result served = server.wait();
  INFO(served);
  CHECK(served.ok());
  CHECK(contains(served.out, "heard good evening"));
}

TEST_CASE("monitor exit ends the connection, and what runs") {
  const Moment moment("block");
  const size_t before = processes_there();
  Running server({program(), "serve", moment.image, "--once", "--listen",
                  "unix:" + moment.directory / "socket"});
  await_listening(server);
  check_succeeds(
      gdb({"target remote " + moment.directory / "socket", "print twice(1)", "monitor exit"}),
      {"$1 = 2"});
  CHECK(server.wait().ok());
  await_processes(before);
}

}  // namespace
}  // namespace snapgdb::e2e
