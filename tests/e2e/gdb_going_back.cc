// gdb goes back to the snapshot, leaves nothing behind, and sees what it sees natively.

#include <catch2/catch.hpp>
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

// The death of a child, and later that of the program itself, in a thread that was not there
// before.
struct TwoDeaths {
  TwoDeaths() {
    const std::string crasher = target_path("crasher");
    snapgdb({"run", "-o", image, "--", "sh", "-c",
             crasher + " abort; exec " + crasher + " segv-thread"});
    child = json_at(parse_json(snapgdb({"show", image + "@1", "--json"}).out), "processes.1.pid");
  }
  // gdb, with every process of the snapshot.
  Result debug(const std::string& which, const Words& commands) const {
    Words words{"debug", image + which, "--", "-nx", "-batch"};
    for (const std::string& command : commands) words.insert(words.end(), {"-ex", command});
    return snapgdb(words);
  }
  TempDir directory;
  std::string image = directory / "image", child;
};

TEST_CASE("goto shows another thread where the one looked at is not there, and names who is new") {
  const TwoDeaths deaths;
  const Result result =
      deaths.debug("", {"goto 1", "print/d $pc != 0", "goto 2", "thread find crashing", "bt 1"});
  check_succeeds(result, {"[Switching to thread", "$1 = 1", "name 'crashing'",
                          "New in it: " + deaths.child + " (for each: add-inferior"});
  CHECK_FALSE(contains(result.err, "No stack"));
}

TEST_CASE(
    "a process that goto leaves behind is said to be away, and is there again on the way back") {
  const TwoDeaths deaths;
  const Result result = deaths.debug(
      "@1", {"goto 2", "print $_inferior", "goto 1", "inferior 2", "print/d $pc != 0", "bt"});
  check_succeeds(result, {"Not in it, until you go to one that has them: " + deaths.child, "$1 = 1",
                          "$2 = 1", "abort"});
  CHECK_FALSE(contains(result.out + result.err, "Can't detach"));
}

}  // namespace
}  // namespace snapgdb::e2e
