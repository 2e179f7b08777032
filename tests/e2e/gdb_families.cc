// gdb on threads that come and go, forks and new programs of a snapshot that runs.

#include <catch2/catch.hpp>
#include <regex>
#include <set>

#include "tests/e2e/moment.h"

namespace snapgdb::e2e {
namespace {

// ---- Threads, processes -------------------------------------------------------------------------

TEST_CASE("a hundred threads run into a breakpoint, and each is heard of") {
  const Moment moment("threads");
  const Result result =
      moment.gdb_says({"set print thread-events off", "set pagination off", "python seen = set()",
                       "python class At(gdb.Breakpoint):\n"
                       "  def stop(self):\n"
                       "    seen.add(int(gdb.parse_and_eval('thread')))\n"
                       "    return False",
                       "python At('visit')", "tbreak at_end", "continue", "print counter",
                       "python print('threads', len(seen))", "continue"});
  check_succeeds(result, {"$1 = 2000", "threads 100", "exited normally"});
}

TEST_CASE("threads are stepped one by one while the others stand still") {
  const Moment moment("threads");
  check_succeeds(moment.gdb_says({"set print thread-events off", "break visit if thread == 99",
                                  "continue", "set scheduler-locking on", "print counter", "next",
                                  "print counter - $1", "info threads"}),
                 {"$2 = 1", "visitor"});
}

TEST_CASE("a first thread that has exited is not there any more, and ^C stops the others") {
  const Moment moment("leave");
  check_succeeds(
      moment.gdb_says({"break visit", "continue", "info threads", "print $_inferior_thread_count",
                       "thread apply all backtrace 1", kInterruptSoon, "continue", "set var go = 2",
                       "delete", "continue"}),
      {"$1 = 1", "visit (thread=1)", "SIGINT", "exited normally"});
}

TEST_CASE("gdb makes a core of a process whose first thread has exited, with all its memory") {
  const Moment moment("leave");
  const std::string core = moment.directory / "core";
  check_succeeds(moment.gdb_says({"break visit", "continue", "info proc mappings", "info auxv",
                                  "generate-core-file " + core}),
                 {"debuggee", "AT_PHDR", "Saved corefile"});
  check_succeeds(gdb({"backtrace", "print go"}, {target_path("debuggee"), core}),
                 {"visit (thread=1)", "leave_to_another", "$1 = 1"});
}

TEST_CASE("a thread that may run alone ends, and gdb has the prompt again") {
  const Moment moment("threads");
  check_succeeds(moment.gdb_says({"set print thread-events off", "break visit if thread == 99",
                                  "continue", "delete", "set scheduler-locking on", "continue",
                                  "thread 1", "set scheduler-locking off", "continue"}),
                 {"No unwaited-for children left", "exited normally"});
  const Moment first("leave");
  check_succeeds(first.gdb_says({"tbreak pthread_exit", "continue", "set scheduler-locking on",
                                 "continue", "info threads", "thread 2",
                                 "set scheduler-locking off", "set var go = 2", "continue"}),
                 {"No unwaited-for children left", "heir", "exited normally"});
}

TEST_CASE("a storm of forks passes by, and a child can be followed") {
  const Moment moment("forks");
  check_succeeds(moment.gdb_says({"set print inferior-events off", "tbreak at_end", "continue",
                                  "print counter", "continue"}),
                 {"$1 = 200", "exited normally"});
  check_succeeds(moment.gdb_says({"set follow-fork-mode child", "break twice", "continue",
                                  "print value", "finish", "continue"}),
                 {"$1 = 0", "Value returned is $2 = 0", "exited normally"});
}

TEST_CASE("both sides of a fork can be kept") {
  const Moment moment("forks");
  check_succeeds(moment.gdb_says({"set detach-on-fork off", "catch fork", "continue", "next",
                                  "info inferiors", "inferior 2", "bt 1", "kill inferiors 2"}),
                 {"Catchpoint 1 (forked process", "2 "});
}

TEST_CASE("in non-stop mode threads fork at once, and each child ends as it would") {
  const Moment moment("forks-of-threads");
  const Result result =
      gdb({"set non-stop on", "set print inferior-events off",
           "target extended-remote | " + program() + " " + moment.image, "set var go = 1",
           "break at_end", "continue -a", "print counter", "print status", "kill"});
  check_succeeds(result, {"hit Breakpoint 1, at_end", "$1 = 100", "$2 = 0"});
}

TEST_CASE("a grandchild that was born meanwhile, of a child nobody follows, can be attached to") {
  const Moment moment("grandchild");
  const Result result =
      gdb({"target extended-remote | " + program() + " " + moment.image, "set var go = 1",
           "break visit", "continue", "set $grandchild = counter", "add-inferior", "inferior 2",
           "eval \"attach %d\", $grandchild", "bt", "info inferiors", "detach", "inferior 1",
           "delete", "continue"});
  check_succeeds(result, {"visit (thread=0)", "bear (act=", "* 2 ", "exited normally"});
}

TEST_CASE("a process that was attached to stops at breakpoints, and for ^C") {
  const Moment moment("busy-grandchild");
  const Result result = gdb({"target extended-remote | " + program() + " " + moment.image,
                             "set var go = 1",
                             "set print thread-events off",
                             "break visit",
                             "continue",
                             "delete",
                             "set $grandchild = counter",
                             "add-inferior",
                             "inferior 2",
                             "eval \"attach %d\", $grandchild",
                             "break twice",
                             "continue",
                             "bt 1",
                             "continue",
                             "delete",
                             kInterruptSoon,
                             "continue",
                             "info inferiors",
                             "kill",
                             "inferior 1",
                             "continue"});
  check_succeeds(result, {"twice (value=2)", "SIGINT", "* 2 ", "exited normally"});
}

TEST_CASE("in non-stop mode, a breakpoint that is deleted has stopped nobody") {
  const Moment moment("visitors");
  const std::string script = moment.directory / "delete.py";
  write_file(script, R"(
import gdb, time
for turn in range(20):
    gdb.execute('break visit if counter < 0', to_string=True)
    time.sleep(0.05)
    gdb.execute('delete', to_string=True)
time.sleep(0.2)
print('running', all(thread.is_running() for thread in gdb.selected_inferior().threads()))
)");
  const Result result = gdb({"set non-stop on", "set print thread-events off",
                             "target extended-remote | " + program() + " " + moment.image,
                             "set var go = 1", "continue -a &", "source " + script, "kill"});
  check_succeeds(result, {"running True"});
}

TEST_CASE("a front end speaks MI to it, in non-stop mode") {
  const Moment moment("count");
  FrontEnd ide("extended-remote", moment);
  ide.says("5-break-insert bump", "5^done,bkpt={number=\"1\"");
  ide.says("6-exec-continue --all",
           "*stopped,reason=\"breakpoint-hit\",disp=\"keep\",bkptno=\"1\"");
  ide.says("7-exec-next --thread 1", "*stopped,reason=\"end-stepping-range\"");
  ide.says("8-data-evaluate-expression counter", "8^done,value=\"1\"");
  ide.says("9-thread-info", "9^done,threads=[{id=\"1\"");
  ide.says("10-break-delete 1", "10^done");
  ide.says("11-exec-continue --all", "*stopped,reason=\"exited-normally\"");
  ide.says("12-gdb-exit", "12^exit");
  CHECK(ide.gdb.wait().ok());
}

TEST_CASE("gdb follows either side of a fork, and keeps the other or lets it go") {
  const Moment moment("forks");
  check_succeeds(moment.gdb_says({"tbreak bump", "continue", "info inferiors", "continue"}),
                 {"bump (by=1)", "* 1 ", "[Inferior 1 (process", "exited normally"});
  check_succeeds(moment.gdb_says({"set follow-fork-mode child", "break twice", "continue",
                                  "info inferiors", "continue"}),
                 {"twice (value=0)", "* 2 ", "[Inferior 2 (process", "exited normally"});
  const Result both =
      moment.gdb_says({"set follow-fork-mode child", "set detach-on-fork off", "break twice",
                       "continue", "continue", "inferior 1", "clear twice", "tbreak bump",
                       "continue", "print counter", "info inferiors", "kill inferiors 1"});
  check_succeeds(both, {"twice (value=0)", "[Inferior 2 (process", "[Switching to inferior 1",
                        "bump (by=1)", "$1 = 0"});
}

TEST_CASE("with schedule-multiple, both sides of a fork run; without it, only the chosen one") {
  const Moment moment("forks");
  const Result both =
      moment.gdb_says({"set detach-on-fork off", "set schedule-multiple on", "catch fork",
                       "continue", "delete", "continue", "info inferiors", "kill inferiors 1"});
  check_succeeds(both, {"Catchpoint 1 (forked process", "[Inferior 2 (process", "exited normally"});
  // The child stands still, and its parent waits for it until it is interrupted.
  const Result one = moment.gdb_says(
      {"set detach-on-fork off", "catch fork", "continue", "delete", "shell true",
       "python import threading; threading.Timer(1, lambda: gdb.post_event(lambda: "
       "gdb.execute('interrupt'))).start()",
       "continue", "print counter", "info inferiors", "kill inferiors 2", "kill inferiors 1"});
  check_succeeds(one, {"Catchpoint 1 (forked process", "$1 = 0"});
}

TEST_CASE("info os and info proc show what runs, children that were not in the snapshot included") {
  const Moment moment("forks");
  const Result result =
      moment.gdb_says({"set detach-on-fork off", "catch fork", "continue", "info os processes",
                       "info os threads", "info os files", "info os tree", "info os shm",
                       "info proc status", "python print('parent', gdb.selected_inferior().pid)"});
  check_succeeds(result, {"tracing stop", fmt::format("parent {}", moment.target.pid())});
  const std::regex row("\n([0-9]+) +debuggee +2 ");
  std::set<std::string> pids;
  for (std::sregex_iterator at(result.out.begin(), result.out.end(), row), end; at != end; ++at)
    pids.insert((*at)[1]);
  CHECK(pids.size() == 2);
  CHECK(pids.contains(std::to_string(moment.target.pid())));
}

TEST_CASE("a parent in vfork can be looked at as soon as its child has ended") {
  const Moment moment("spawn");
  check_succeeds(
      moment.gdb_says({"set detach-on-fork off", "set schedule-multiple on", "catch vfork",
                       "continue", "continue", "inferior 1", "print $pc != 0"}),
      {"[Inferior 2 (process", "exited normally]", "$1 = 1"});
}

TEST_CASE("a spawned child runs past, and its parent waits for it") {
  const Moment moment("spawn");
  check_succeeds(moment.gdb_says({"break at_end", "continue", "continue"}), {"exited normally"});
  check_succeeds(moment.gdb_says({"catch vfork", "continue", "continue"}),
                 {"Catchpoint 1 (vforked process", "exited normally"});
}

TEST_CASE("execve is followed into the new program, also from another thread") {
  const Moment moment("exec");
  check_succeeds(moment.gdb_says({"catch exec", "continue", "break at_end", "continue",
                                  "info threads", "continue"}),
                 {"is executing new program", "at_end (status=0)", "exited normally"});
}

TEST_CASE("a thread calls execve while the first one stands still") {
  const Moment moment("exec");
  check_succeeds(
      moment.gdb_says({"break execv", "continue", "set scheduler-locking on", "continue"}),
      {"hit Breakpoint 1", "is executing new program", "exited normally"});
}

TEST_CASE("a process whose first thread was gone gets signals, ends, and becomes another program") {
  const TempDir directory;
  const std::string image = directory / "image";
  {
    const Target target("debuggee", {"--do", "leave", "--at-once"});
    while (state_of(target.pid()) != 'Z') usleep(1000);
    capture(target.pid(), image);
  }
  const std::string connect = "target remote | " + program() + " " + image;
  const size_t before = processes_there();
  check_succeeds(gdb({connect, "break bump", "signal SIGKILL"}),
                 {"terminated with signal SIGKILL"});
  check_succeeds(gdb({connect, "print twice(4)", "kill"}), {"$1 = 8"});
  check_succeeds(gdb({connect, "set var go = 3", "catch exec", "continue", "break at_end",
                      "continue", "continue"}),
                 {"is executing new program", "at_end (status=0)", "exited normally"});
  await_processes(before);
}

TEST_CASE("a process ends while its threads are at breakpoints") {
  const Moment moment("end-at-work");
  for (int round = 0; round < 5; ++round)
    check_succeeds(moment.gdb_says({"set print thread-events off", "break visit if counter < 0",
                                    "continue", "info breakpoints"}),
                   {"exited normally", "stop only if counter < 0"});
  // gdb hears of each, and lets it go on.
  const Result result = moment.gdb_says({"set print thread-events off",
                                         "python class At(gdb.Breakpoint):\n"
                                         "  def stop(self): return False",
                                         "python At('visit')", "continue"});
  check_succeeds(result, {"exited normally"});
}

TEST_CASE("a program that traces its own child is not disturbed") {
  const Moment moment("trace");
  check_succeeds(moment.gdb_says({"continue"}), {"exited normally"});
}

// ---- More than one process, and lldb ------------------------------------------------------------

TEST_CASE("every process can be called into in snapgdb debug, and thrown back by restart") {
  const TempDir directory;
  const std::string image = directory / "image";
  const Target tree("witness-static");
  capture(tree.pid(), image, {"--all-memory"});
  Words words{"debug", image, "--", "-nx", "-batch"};
  const auto say = [&](const std::string& command) { words.insert(words.end(), {"-ex", command}); };
  for (size_t i = 1; i <= 2; ++i) {
    say(fmt::format("inferior {}", i));
    say("print (int)getpid()");
  }
  say("set var witness_zero = 5");
  say("restart");
  say("print witness_zero");
  const Result result = snapgdb(words);
  check_succeeds(result, {fmt::format("$1 = {}", tree.pid()), "$3 = 0"});
  CHECK(std::ranges::any_of(children_of(tree.pid()), [&](pid_t child) {
    return contains(result.out, fmt::format("$2 = {}", child));
  }));
}

// lldb, connected.
Result lldb(const Moment& moment, const Words& commands) {
  Running server(
      {program(), "serve", moment.image, "--listen", "unix:" + moment.directory / "socket"});
  await_listening(server);
  Words words{"lldb", "--no-lldbinit", "--batch", "-o",
              "process connect --plugin gdb-remote unix-connect://" + moment.directory / "socket"};
  for (const std::string& command : commands) words.insert(words.end(), {"-o", command});
  return run(words);
}

TEST_CASE("lldb calls, breaks, steps, watches and runs to the end") {
  const Moment moment("count");
  const Words commands{"expression twice(21)",
                       "expression go = 1",
                       "breakpoint set -n bump -c 'by == 5'",
                       "continue",
                       "frame variable",
                       "finish",
                       "breakpoint delete -f",
                       "watchpoint set variable bytes[3]",
                       "continue",
                       "expression counter",
                       "continue"};
  check_succeeds(lldb(moment, commands),
                 {"= 42", "stop reason = breakpoint", "by = 5", "Return value: (long) $",
                  "stop reason = watchpoint", "= 210", "exited with status = 0"});
}

TEST_CASE("lldb continues all threads of a program, whichever it looks at") {
  const Moment moment("threads");
  const Words commands{"expression go = 1", "breakpoint set -n visit -i 50",
                       "continue",          "breakpoint delete -f",
                       "thread select 1",   "continue"};
  check_succeeds(lldb(moment, commands), {"stop reason = breakpoint", "exited with status = 0"});
}

TEST_CASE("lldb calls signals by their names") {
  const Moment moment("signals");
  check_succeeds(lldb(moment, {"expression go = 1", "continue"}), {"stop reason = signal SIGUSR1"});
}

TEST_CASE("lldb looks at variables by expressions, and nothing has run") {
  const Moment moment("count");
  const Words commands{"expression counter * 2 + 14",         "expression counter = 5",
                       "expression (long)bytes[3] + counter", "process plugin packet monitor notes",
                       "expression twice(counter)",           "expression counter + 1"};
  check_succeeds(lldb(moment, commands), {"= 14", "= 5", "Nothing has run yet", "= 10", "= 6"});
}

}  // namespace
}  // namespace snapgdb::e2e
