// gdb goes back to the snapshot, leaves nothing behind, and sees what it sees natively.

#include <catch2/catch.hpp>
#include <filesystem>
#include <regex>

#include "tests/e2e/debugger_dump.h"
#include "tests/e2e/json.h"
#include "tests/e2e/moment.h"

namespace snapgdb::e2e {
namespace {

// ---- Back to the snapshot -----------------------------------------------------------------------

TEST_CASE("monitor restart goes back to the snapshot, two hundred times, and memory stays flat") {
  const Moment moment("count");
  const std::string script = moment.directory / "cycles.py";
  write_file(script, R"(
import gdb, os
def stub():
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            if b'image.snapgdb' in open(f'/proc/{pid}/cmdline', 'rb').read().split(b'/')[-1]:
                if os.readlink(f'/proc/{pid}/exe').endswith('/snapgdb'): return pid
        except OSError: pass
def resident():
    return int([l for l in open(f'/proc/{stub()}/status') if l.startswith('VmRSS')][0].split()[1])
gdb.execute('break bump if by == 3')
sums = set()
for cycle in range(200):
    gdb.execute('monitor restart', to_string=True)
    gdb.execute('maintenance flush register-cache', to_string=True)
    gdb.execute('set var go = 1')
    gdb.execute('continue', to_string=True)
    sums.add(int(gdb.parse_and_eval('counter')))
    if cycle == 20: early = resident()
print('sums', sums)
late = resident()
print('flat' if late < early + 4096 else f'grown from {early} to {late} KiB')
)");
  check_succeeds(gdb({moment.connect(), "source " + script}), {"sums {3}", "flat"});
}

TEST_CASE("gdb's own run returns to the snapshot, breakpoints kept") {
  const Moment moment("count");
  const std::string pid = std::to_string(moment.target.pid());
  check_succeeds(gdb({"target extended-remote | " + program() + " " + moment.image,
                      "set var go = 1", "break at_end", "continue", "print counter", "run",
                      "print counter", "set var go = 1", "continue", "print counter"}),
                 {"$1 = 210", "$2 = 0", "$3 = 210"});
}

// gdb, with every process of an image.
Result debug(const std::string& image, const Words& commands) {
  Words words{"debug", image, "--", "-nx", "-batch"};
  for (const std::string& command : commands) words.insert(words.end(), {"-ex", command});
  return snapgdb(words);
}

// The death of a child, and later that of the program itself, in a thread that was not there
// before.
struct TwoDeaths {
  TwoDeaths() {
    const std::string crasher = target_path("crasher");
    snapgdb({"run", "-o", image, "--", "sh", "-c",
             crasher + " abort; exec " + crasher + " segv-thread"});
    child = json_at(parse_json(snapgdb({"show", image + "@1", "--json"}).out), "processes.1.pid");
  }
  TempDir directory;
  std::string image = directory / "image", child;
};

TEST_CASE("restart brings back a process that has ended, or was killed") {
  const Moment moment("count");
  const std::string process = fmt::format("process {}", moment.target.pid());
  const Result result =
      debug(moment.image, {"set var go = 1", "continue", "restart", "print go", "info inferiors",
                           "kill", "restart", "print twice(21)"});
  check_succeeds(result, {"exited normally", "$1 = 0", "* 1    " + process, "killed", "$2 = 42"});
  CHECK_FALSE(contains(result.out + result.err, "Invalid thread"));
  const Result nothing = debug(moment.image, {"kill", "snapgdb-look-again", "info inferiors"});
  CHECK_FALSE(contains(nothing.err, "Invalid thread"));
}

TEST_CASE("restart stays with the process that is looked at, also where it brings back another") {
  const TwoDeaths deaths;
  const Words commands{"kill inferiors 2", "inferior 1", "restart",
                       "print $_inferior", "inferior 2", "print $_inferior * 10"};
  check_succeeds(debug(deaths.image + "@1", commands), {"$1 = 1", "$2 = 20"});
}

// gdb passes it on by itself as it continues.
TEST_CASE("the signal at which a thread had stopped is none of the snapshot's after restart") {
  const Moment moment("crash");
  const Result result =
      debug(moment.image, {"set var go = 1", "continue", "restart", "set var go = 1", "continue",
                           "print $_siginfo.si_signo"});
  check_succeeds(result, {"SIGSEGV", "This is the snapshot", "SIGSEGV", "$1 = 11"});
  CHECK_FALSE(contains(result.out, "terminated"));
}

TEST_CASE("after an execve, restart is at the program of the snapshot again") {
  const Moment moment("exec");
  check_succeeds(
      debug(moment.image, {"set var go = 1", "catch exec", "continue", "restart", "print go",
                           "delete", "set var go = 1", "tbreak at_end", "continue"}),
      {"is executing new program", "$1 = 0", "at_end (status=0)"});
}

TEST_CASE("after an execve, a plain connection comes back by what restart says") {
  const Moment moment("exec");
  const std::string program_file = target_path("debuggee");
  const Result by_hand = moment.gdb_says(
      {"catch exec", "continue", "delete", "monitor restart", "file target:" + program_file,
       "set solib-search-path", "maintenance flush dcache", "info sharedlibrary",
       "maintenance flush register-cache", "print go", "print twice(21)"});
  check_succeeds(by_hand, {"`file target:" + program_file + "` and `set solib-search-path`",
                           "$1 = 0", "$2 = 42"});
}

// gdb asks for it by the name of the other program then.
TEST_CASE("after an execve, run is at the program of the snapshot again") {
  const std::string shell = std::filesystem::canonical("/bin/sh"), crasher = target_path("crasher");
  const Target target =
      Target::at(shell, {"-c", "echo ready; read line; exec " + crasher + " abort"},
                 {.input = RunOptions::kPipe});
  const TempDir directory;
  const std::string image = directory / "image.snapgdb";
  capture(target.pid(), image);
  const Result result =
      gdb({"target extended-remote | " + program() + " " + image, "print (int)getpid() > 0",
           "monitor input go", "catch exec", "continue", "delete", "run", "print (int)getpid() > 0",
           "info inferiors"});
  check_succeeds(result, {"is executing new program: " + crasher,
                          "is executing new program: " + shell, "$2 = 1", "target:" + shell});
}

TEST_CASE("a breakpoint in a library that was loaded since the snapshot is in nobody's way") {
  const Moment moment("count");
  const Result result = debug(
      moment.image, {"print (long)dlopen(\"" + target_path("libwitness.so") + "\", 2) != 0",
                     "break libwitness_call", "restart", "print twice(21)", "info breakpoints"});
  check_succeeds(result, {"$1 = 1", "$2 = 42", "<PENDING>"});
  CHECK_FALSE(contains(result.out + result.err, "nothing has run"));
}

// As an IDE goes back while threads run in the background.
TEST_CASE("in non-stop mode, gdb hears that threads stand still after restart") {
  const Moment moment("block");
  FrontEnd ide("remote", moment);
  ide.says("5-exec-continue --all", "5^running");
  usleep(500'000);
  ide.says("6-interpreter-exec console \"monitor restart\"", "6^done");
  ide.says("7-interpreter-exec console \"maintenance flush register-cache\"", "7^done");
  usleep(500'000);
  ide.says("8-thread-info", "8^done,threads=[{id=\"1\"");
  const std::string said = ide.gdb.wait_for_line("8^done");
  CHECK(contains(said, "state=\"stopped\""));
  CHECK_FALSE(contains(said, "state=\"running\""));
  ide.says("9-gdb-exit", "9^exit");
  CHECK(ide.gdb.wait().ok());
}

TEST_CASE("a call in a diversion leaves the snapshot as it was") {
  const Moment moment("count");
  check_succeeds(
      moment.gdb_says({"monitor diversion on", "print bump(7)", "print counter", "print bump(8)",
                       "print counter", "monitor diversion off", "print bump(9)", "print counter"}),
      {"$1 = 7", "$2 = 0", "$3 = 8", "$4 = 0", "$5 = 9", "$6 = 9"});
}

// ---- Nothing stays behind -----------------------------------------------------------------------

TEST_CASE("however a session ends, nothing of the tree is left") {
  const Moment moment("block");
  const size_t before = processes_there();
  for (const char* end : {"quit", "kill", "detach", "disconnect", "monitor restart"}) {
    INFO(end);
    check_succeeds(moment.gdb_says({"print twice(1)", end}), {"$1 = 2"});
    await_processes(before);
  }
}

// Those that have just been born are nobody's whom the stub knows.
TEST_CASE("gdb is killed while processes and threads come and go, and nothing is left") {
  const Moment moment("storm");
  const size_t before = processes_there();
  for (int round = 0; round < 8; ++round) {
    CAPTURE(round);
    Running gdb({"gdb", "-nx", "-q", "-batch", "-ex", "set print thread-events off", "-ex",
                 moment.connect(), "-ex", "set var go = 1", "-ex", "break storm", "-ex", "continue",
                 "-ex", "printf \"begins\\n\"", "-ex", "continue"});
    gdb.wait_for_line("begins");
    usleep(static_cast<useconds_t>(round) * 20'000);
    ::kill(gdb.pid(), SIGKILL);
    gdb.wait();
    await_processes(before);
  }
}

// The first process of a pid namespace is not gone before all in it are, whom the stub traces.
TEST_CASE("a tree with pid namespaces below its first process ends with the session") {
  if (skip_unless(geteuid() == 0, "to make namespaces, one must be root")) return;
  const size_t before = processes_there();
  TakenAway below("below", {"--root", "--keep"});
  below.take();
  const Result result =
      run({program(), "debug", below.image, "--", "-batch", "-nx", "-ex", "print (int)getpid()",
           "-ex", "inferior 2", "-ex", "print (int)getpid() > 1", "-ex", "kill"});
  check_succeeds(result, {"$1 = ", "$2 = 1"});
  await_processes(before);
}

TEST_CASE("a detached tree runs on where that is said, until its end") {
  const Moment moment("block");
  const size_t before = processes_there();
  check_succeeds(moment.gdb_says({"monitor on-detach run", "print twice(1)", "detach"}),
                 {"$1 = 2"});
  CHECK(processes_there() > before);
  for (const pid_t pid : tree_of(getpid()))
    if (pid != moment.target.pid() &&
        contains(read_file(fmt::format("/proc/{}/comm", pid)), "debuggee"))
      ::kill(pid, SIGKILL);
  await_processes(before);
}

TEST_CASE("children that gdb was not told of yet run on, too, when their parent is detached from") {
  const Moment moment("forks-of-threads");
  const size_t before = processes_there();
  for (int i = 0; i < 5; ++i) {
    const std::string socket = moment.directory / "socket";
    Running server({program(), "serve", moment.image, "--once", "--program-streams", "--on-detach",
                    "run", "--listen", "unix:" + socket});
    await_listening(server);
    check_succeeds(
        gdb({"target remote " + socket, "set var go = 1", "break visit", "continue", "detach"}),
        {"hit Breakpoint 1"});
    const Result served = server.wait();
    await_processes(before);
    INFO(served);
    CHECK_FALSE(contains(server.err(), "status"));  // of a child that did not end by itself
  }
}

TEST_CASE("gdb and its stub may be killed at any moment: nothing of the tree is left") {
  const Moment moment("block");
  const size_t before = processes_there();
  for (const std::string victim : {"gdb", "snapgdb"}) {
    Running debugger({"gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-ex",
                      moment.connect(), "-ex", "set var go = 1", "-ex", "print twice(3)", "-ex",
                      "echo running\\n", "-ex", "continue"});
    debugger.wait_for_line("running");
    for (const pid_t pid : tree_of(debugger.pid()))
      if (victim + "\n" == read_file(fmt::format("/proc/{}/comm", pid))) ::kill(pid, SIGKILL);
    debugger.wait();
    await_processes(before);
  }
}

TEST_CASE("an ordinary user makes a snapshot run as well") {
  if (skip_unless(geteuid() == 0, "needs root to become another user")) return;
  const Moment moment("count", {.user = kNobody});
  check_succeeds(moment.gdb_says({"print twice(4)", "tbreak at_end", "continue", "print counter"},
                                 {.user = kNobody}),
                 {"$1 = 8", "$2 = 210"});
}

// ---- gdb against gdb ----------------------------------------------------------------------------

std::string normalised(const std::string& text) {
  const std::regex thread("Thread (0x[0-9a-f]+ \\(LWP ([0-9]+)\\)|[0-9]+\\.([0-9]+))");
  return std::regex_replace(text, thread, "Thread $2$3");
}

// Without function calls: gdb 13 by itself fails to put registers back where there is AMX.
TEST_CASE("the same script says the same on the live process and on its snapshot") {
  struct Script {
    const char* deed;
    Words commands;
  };
  const Script kScripts[] = {
      {"count",
       {"set var go = 1", "break bump if by > 18", "continue", "bt", "info registers rip rdi rsi",
        "finish", "next", "step", "info frame",
        can_watch_natively() ? "watch bytes[3]" : "break at_end", "delete 1", "continue", "stepi",
        "x/3i $pc", "print counter"}},
      {"signals",
       {"set var go = 1", "continue", "print $_siginfo", "bt 3", "continue", "signal 0",
        "continue"}},
      {"crash",
       {"set var go = 1", "continue", "print $_siginfo", "bt", "info registers", "continue"}},
  };
  for (const Script& script : kScripts) {
    const Moment moment(script.deed);
    const auto said = [&](const std::string& connect) {
      Words commands{"set print thread-events off", "set pagination off", connect,
                     "echo <begin>\\n"};
      commands.insert(commands.end(), script.commands.begin(), script.commands.end());
      commands.push_back("echo <end>\\n");
      const std::string out = gdb(commands, {target_path("debuggee")}).out;
      const size_t begin = out.find("<begin>"), end = out.find("<end>");
      REQUIRE((begin != out.npos && end != out.npos));
      return without_misread_registers(normalised(out.substr(begin, end - begin)));
    };
    const std::string snapshot = said(moment.connect());
    const std::string live = said(fmt::format("attach {}", moment.target.pid()));
    CHECK(snapshot == live);
  }
}

// ---- From one snapshot to another ---------------------------------------------------------------

TEST_CASE("goto shows a thread of the program that is there, and names who is new") {
  const TwoDeaths deaths;
  const Result result =
      debug(deaths.image, {"goto 1", "print/d $pc != 0", "goto 2", "thread find crashing", "bt 1"});
  check_succeeds(result, {"$1 = 1", "name 'crashing'",
                          "New in it: " + deaths.child + " (for each: add-inferior"});
  CHECK_FALSE(contains(result.err, "No stack"));
}

TEST_CASE(
    "a process that goto leaves behind is said to be away, and is there again on the way back") {
  const TwoDeaths deaths;
  const Result result = debug(deaths.image + "@1", {"goto 2", "print $_inferior", "goto 1",
                                                    "inferior 2", "print/d $pc != 0", "bt"});
  check_succeeds(result, {"Not in it, until you go to one that has them: " + deaths.child, "$1 = 1",
                          "$2 = 1", "abort"});
  CHECK_FALSE(contains(result.out + result.err, "Can't detach"));
}

TEST_CASE("restart forgets what was read of the other processes, too") {
  const TwoDeaths deaths;
  const Result result =
      debug(deaths.image + "@1",
            {"inferior 2", "python before = gdb.execute('bt', to_string=True)",
             "python [gdb.execute(f'set var *(long*)($sp + {8 * i}) = 0') for i in range(64)]",
             "python print('changed', gdb.execute('bt', to_string=True) != before)", "inferior 1",
             "restart", "inferior 2",
             "python print('as before', gdb.execute('bt', to_string=True) == before)"});
  check_succeeds(result, {"changed True", "as before True"});
}

TEST_CASE("while a process is not in the snapshot, gdb has an inferior without it") {
  const TwoDeaths deaths;
  const Result result = debug(deaths.image + "@1", {"goto 2", "info inferiors", "info threads"});
  check_succeeds(result, {"* 1    process", "  2    <null>"});
}

}  // namespace
}  // namespace snapgdb::e2e
