// What runs, as a debugger hears of it and has its will.

#include <catch2/catch.hpp>

#include "running.h"

namespace snapgdb::gdbstub {

TEST_CASE("whoever waits is told when nothing runs any more") {
  Debugger debugger;
  debugger.script.standing = true;
  CHECK(debugger.client.ask(kContinue) == "N");
  debugger.script.events.push_back({.kind = Kind::kStepped, .thread = kSecond, .signal = SIGTRAP});
  CHECK(debugger.client.ask(kContinue).starts_with("T05"));
}

TEST_CASE("the snapshot is launched by the first request that runs, and not before") {
  Debugger debugger;
  for (const char* request : {"?", "g", "qXfer:siginfo:read::0,80", "m1000,4",
                              "P10=0010400000000000", "M1000,2:abcd", "Z0,401000,1"})
    debugger.client.ask(request);
  CHECK(debugger.script.launched == 0);
  debugger.told(kContinue, {.kind = Kind::kStepped, .thread = kFirst});
  CHECK(debugger.script.launched == 1);
  CHECK(debugger.script.done ==
        std::vector<std::string>{"insert 16 0 401000", "resume c0:16.0", "halt"});
  CHECK(debugger.client.ask("m1000,2") == "abcd");  // what was changed has come along
  CHECK(debugger.script.wishes.forks);
}

TEST_CASE("every event has its stop reply, in gdb's terms") {
  struct Row {
    Event event;
    std::string reply;
  };
  const std::string where = "thread:p10.11;core:0;";
  for (const Row& row : std::vector<Row>{
           {{.kind = Kind::kStopped, .thread = kSecond}, "T00" + where},
           {{.kind = Kind::kSignal, .thread = kSecond, .signal = SIGBUS}, "T0a" + where},
           {{.kind = Kind::kStepped, .thread = kSecond}, "T05" + where},
           {{.kind = Kind::kSoftwareBreakpoint, .thread = kSecond}, "T05swbreak:;" + where},
           {{.kind = Kind::kHardwareBreakpoint, .thread = kSecond}, "T05hwbreak:;" + where},
           {{.kind = Kind::kWatchpoint, .thread = kSecond, .value = 0x1234},
            "T05watch:1234;" + where},
           {{.kind = Kind::kWatchpoint,
           .thread = kSecond,
           .value = 0x1234,
           .watch = BreakpointKind::kAccess},
            "T05awatch:1234;" + where},
           {{.kind = Kind::kFork, .thread = kSecond, .child = kChild}, "T05fork:p30.30;" + where},
           {{.kind = Kind::kVfork, .thread = kSecond, .child = kChild}, "T05vfork:p30.30;" + where},
           {{.kind = Kind::kVforkDone, .thread = kSecond}, "T05vforkdone:;" + where},
           {{.kind = Kind::kExec, .thread = kSecond, .path = "/x"}, "T05exec:2f78;" + where},
           {{.kind = Kind::kSyscallEntry, .thread = kSecond, .value = 60},
            "T05syscall_entry:3c;" + where},
           {{.kind = Kind::kSyscallReturn, .thread = kSecond, .value = 60},
            "T05syscall_return:3c;" + where},
           {{.kind = Kind::kThreadCreated, .thread = kSecond}, "T05create:;" + where},
           {{.kind = Kind::kClone, .thread = kSecond, .child = kFirst}, "T05clone:p10.10;" + where},
           {{.kind = Kind::kThreadExited, .thread = kSecond, .value = 3}, "w3;p10.11"},
           {{.kind = Kind::kExited, .thread = {Pid{16}, {}}, .value = 3}, "W03;process:10"},
           {{.kind = Kind::kKilled, .thread = {Pid{16}, {}}, .signal = SIGSEGV}, "X0b;process:10"},
           {{.kind = Kind::kNothingRuns}, "N"}}) {
    INFO(row.reply);
    Debugger debugger;
    const std::string reply = debugger.told(kContinue, row.event);
    CHECK(reply.starts_with(row.reply));
    // The registers that gdb wants first come along.
    CHECK(contains(reply, "10:0020400000000000;") == contains(row.reply, where));
  }
}

TEST_CASE("a client that does not know of breakpoints as such gets a plain trap") {
  Debugger debugger(false, "");
  CHECK_FALSE(contains(debugger.client.supported, "swbreak"));
  CHECK(debugger.told("vCont;c", {.kind = Kind::kSoftwareBreakpoint, .thread = kFirst})
            .starts_with("T05thread:10;core:0;"));
  CHECK(debugger.told("vCont;c", {.kind = Kind::kExited, .thread = {Pid{16}, {}}}) == "W00");
}

TEST_CASE("lldb gets Linux's signals and a reason") {
  Debugger debugger;
  debugger.client.ask("QEnableErrorStrings");
  CHECK(contains(
      debugger.told("vCont;C0a:11", {.kind = Kind::kSoftwareBreakpoint, .thread = kSecond}),
      "reason:breakpoint;"));
  CHECK(debugger.was_asked("resume c10:0.17"));
  CHECK(contains(debugger.client.ask("jThreadsInfo"),
                 R"("tid":17,"name":"","reason":"breakpoint","signal":5)"));
  debugger.told("vCont;c", {.kind = Kind::kWatchpoint, .thread = kFirst, .value = 4096});
  CHECK(contains(debugger.client.ask("jThreadsInfo"),
                 R"("reason":"watchpoint","signal":5,"description":"4096 0 4096")"));
  const std::string reply =
      debugger.told("vCont;c", {.kind = Kind::kSignal, .thread = kFirst, .signal = SIGBUS});
  CHECK(reply.starts_with("T07"));
  CHECK(contains(reply, "reason:signal;"));
}

TEST_CASE("actions name threads, signals in gdb's numbering, and ranges") {
  Debugger debugger;
  debugger.told("vCont;r401000,401010:p10.11;C0a:p10.-1;c",
                {.kind = Kind::kStepped, .thread = kSecond});
  CHECK(debugger.was_asked("resume s0:16.17[401000,401010] c7:16.0 c0:0.0"));
  debugger.told("S1e", {.kind = Kind::kStepped, .thread = kSecond});
  CHECK(debugger.was_asked("resume s10:16.17 c0:0.0"));
  CHECK(debugger.client.ask("vCont;C90").starts_with('E'));  // no signal of Linux
}

TEST_CASE("nothing is sent until something happens, then the program's output comes first") {
  Debugger debugger;
  CHECK(debugger.client.session.event_descriptor() == -1);
  CHECK(debugger.client.ask_all(kContinue).empty());
  CHECK(debugger.client.session.event_descriptor() >= 0);
  debugger.script.output = "hello\n";
  CHECK(payloads(debugger.client.session.on_event()) ==
        std::vector<std::string>{"O" + to_hex("hello\n")});
  debugger.script.output = "bye\n";
  debugger.script.events.push_back({.kind = Kind::kStepped, .thread = kFirst});
  const auto last = payloads(debugger.client.session.on_event());
  REQUIRE(last.size() == 2);
  CHECK(last[0] == "O" + to_hex("bye\n"));
  CHECK(last[1].starts_with("T05thread:p10.10;"));
  CHECK(debugger.client.session.event_descriptor() == -1);
  CHECK(debugger.client.session.on_event().empty());
}

TEST_CASE("^C interrupts what runs") {
  Debugger debugger;
  debugger.client.ask_all(kContinue);
  CHECK(debugger.client.session.feed("\x03").empty());
  CHECK(debugger.was_asked("interrupt"));
  debugger.script.events.push_back({.kind = Kind::kSignal, .thread = kFirst, .signal = SIGINT});
  CHECK(payloads(debugger.client.session.on_event()).at(0).starts_with("T02thread:p10.10;"));
}

// gdb sends it ahead of what it sends before it continues.
TEST_CASE("^C that comes before anything runs interrupts what is resumed next") {
  Debugger debugger;
  CHECK(debugger.client.session.feed("\x03").empty());
  debugger.client.ask_all(kContinue);
  CHECK(debugger.was_asked("interrupt"));
}

TEST_CASE("^C that crosses a stop interrupts what is resumed next, once") {
  Debugger debugger;
  debugger.client.ask_all(kContinue);
  debugger.script.events.push_back({.kind = Kind::kStepped, .thread = kFirst});
  debugger.client.session.on_event();
  debugger.client.session.feed("\x03");
  CHECK_FALSE(debugger.was_asked("interrupt"));
  debugger.client.ask_all(kContinue);
  CHECK(debugger.was_asked("interrupt"));
  debugger.script.done.clear();
  debugger.script.events.push_back({.kind = Kind::kSignal, .thread = kFirst, .signal = SIGINT});
  debugger.client.session.on_event();
  debugger.client.ask_all(kContinue);
  CHECK_FALSE(debugger.was_asked("interrupt"));
}

TEST_CASE("lldb's ^C that crosses a stop means nothing any more") {
  Debugger debugger;
  debugger.client.ask("QEnableErrorStrings");
  debugger.client.ask_all(kContinue);
  debugger.script.events.push_back({.kind = Kind::kStepped, .thread = kFirst});
  debugger.client.session.on_event();
  debugger.client.session.feed("\x03");
  debugger.client.ask_all(kContinue);
  CHECK_FALSE(debugger.was_asked("interrupt"));
}

TEST_CASE("that a breakpoint's memory is gone is an error of its removal, which counts") {
  Debugger debugger;
  REQUIRE(debugger.client.ask("Z0,401000,1") == "OK");
  debugger.client.ask_all(kContinue);
  debugger.script.events.push_back({.kind = Kind::kStepped, .thread = kFirst});
  debugger.client.session.on_event();
  debugger.script.breakpoints_fit = false;
  CHECK(debugger.client.ask("z0,401000,1").starts_with("E"));
  CHECK(debugger.client.ask("z0,401000,1") == "OK");
}

TEST_CASE("a stop of threads that were not resumed waits until they are") {
  Debugger debugger(true);
  debugger.client.ask("vAttach;10");
  debugger.client.ask("vAttach;20");
  debugger.script.events = {{.kind = Kind::kSoftwareBreakpoint, .thread = kOther},
                            {.kind = Kind::kStepped, .thread = kSecond}};
  CHECK(contains(debugger.client.ask("vCont;s:p10.11"), "thread:p10.11;"));
  debugger.script.done.clear();
  CHECK(contains(debugger.client.ask("vCont;c:p20.-1"), "thread:p20.20;"));
  CHECK_FALSE(debugger.was_asked("resume c0:32.0"));  // it had stopped already
  CHECK(debugger.client.ask_all("vCont;c:p20.-1").empty());
  CHECK(debugger.was_asked("resume c0:32.0"));
}

TEST_CASE("what a thread had to say is forgotten when it dies while the others are stopped") {
  Debugger debugger;
  debugger.script.dying = kSecond;
  debugger.script.events = {{.kind = Kind::kSoftwareBreakpoint, .thread = kSecond}};
  CHECK(debugger.client.ask_all("vCont;C1e:p10.10;c").empty());
  CHECK(debugger.script.done ==
        std::vector<std::string>{"resume c10:16.16 c0:0.0", "halt", "resume c0:16.16 c0:0.0"});
  debugger.script.events = {{.kind = Kind::kKilled, .thread = {Pid{16}, {}}, .signal = SIGKILL}};
  CHECK(payloads(debugger.client.session.on_event()) == std::vector<std::string>{"X09;process:10"});
}

TEST_CASE("a launch that fails is a refusal in words") {
  Conversation client(
      tree(),
      {.launch = [](const SnapshotTarget&, std::span<const Pid>) -> std::unique_ptr<RunningTarget> {
        throw Error("cannot restore", "the pid is taken");
      }});
  const auto replies = client.ask_all(kContinue);
  REQUIRE(replies.size() == 2);
  CHECK(contains(from_hex(replies[0].substr(1)).value_or(""),
                 "nothing has run: cannot restore: the pid is taken"));
  CHECK(replies[1] == "T00thread:p10.10;core:0;");
}

TEST_CASE("what is otherwise than in the snapshot is shown once, and told when it is asked for") {
  Debugger debugger;
  auto& client = debugger.client;
  CHECK(client.monitor("notes") == "Nothing has run yet.\n");
  debugger.script.notes = {"descriptor 7 fails as a lost connection would", "\033[2Jclocks jump"};
  debugger.script.events.push_back({.kind = Kind::kStepped, .thread = kFirst});
  const auto replies = client.ask_all(kContinue);
  REQUIRE(replies.size() == 2);
  const std::string shown = from_hex(replies[0].substr(1)).value_or("");
  CHECK(contains(shown, "snapgdb: descriptor 7 fails as a lost connection would\n"));
  CHECK_FALSE(contains(shown, "\033"));
  CHECK(contains(client.monitor("notes"), "descriptor 7 fails"));

  client.monitor("restart");
  CHECK(contains(client.monitor("notes"), "descriptor 7 fails"));
  debugger.script.events.push_back({.kind = Kind::kStepped, .thread = kFirst});
  CHECK(client.ask_all(kContinue).size() == 1);

  client.monitor("restart");
  debugger.script.notes = std::vector<std::string>(100, "otherwise");
  debugger.script.events.push_back({.kind = Kind::kStepped, .thread = kFirst});
  CHECK(contains(from_hex(client.ask_all(kContinue).at(0).substr(1)).value_or(""),
                 "and 95 more (`monitor notes`)"));
}

TEST_CASE("lldb's own memory is there before anything runs, while it does, and after a restart") {
  Debugger debugger;
  auto& client = debugger.client;
  const std::string first = client.ask("_M1001,rw"), second = client.ask("_M1000,rx");
  CHECK(first == "200000000000");
  CHECK(second == "200000002000");
  CHECK(contains(client.ask("qMemoryRegionInfo:200000001fff"), "permissions:rw;"));
  CHECK(client.ask("m200000001ffe,4") == "00000000");  // both
  CHECK(client.ask("M200000000ffe,4:01020304") == "OK");
  CHECK(client.ask("m200000000ffe,4") == "01020304");
  CHECK(debugger.script.launched == 0);
  debugger.told(kContinue, {.kind = Kind::kStepped, .thread = kFirst});
  CHECK(client.ask("m200000000ffe,4") == "01020304");
  CHECK(client.ask("_M10,rwx") == "200000003000");
  CHECK(debugger.was_asked("allocate 16 200000003000 200000004000"));
  CHECK(client.ask("_m200000002000") == "OK");
  CHECK(debugger.was_asked("release 16 200000002000"));
  client.monitor("restart");
  CHECK(client.ask("m200000000ffe,4") == "00000000");
  CHECK(client.ask("m200000003000,1") == "00");
  CHECK(client.ask("m200000002000,1").starts_with('E'));
  for (const char* request : {"_M0,rw", "_Mffffffffffffffff,rw", "_M8000000,rw", "_m1000", "_M"}) {
    INFO(request);
    CHECK(client.ask(request).starts_with('E'));
  }
}

TEST_CASE("info os tells of what runs, once something does") {
  Debugger debugger;
  CHECK_FALSE(contains(debugger.client.fetch("osdata", "processes"), "what it is now"));
  debugger.told(kContinue, {.kind = Kind::kStepped, .thread = kFirst});
  CHECK(contains(debugger.client.fetch("osdata", "processes"), "what it is now"));
  debugger.script.ipc.queues = {{.id = 7, .messages = 2, .pids = {16, 99}}};
  const std::string queues = debugger.client.fetch("osdata", "msg");
  CHECK(contains(queues, "<column name=\"num messages\">2</column>"));
  CHECK(contains(queues, "<column name=\"last msgsnd() command\">what it is now</column>"));
  CHECK(contains(queues, "<column name=\"last msgrcv() command\">0</column>"));
  debugger.client.monitor("restart");
  CHECK(debugger.client.fetch("osdata", "msg").find("<item>") == std::string::npos);
  CHECK_FALSE(contains(debugger.client.fetch("osdata", "processes"), "what it is now"));
}

TEST_CASE("a breakpoint that cannot be set keeps the program from running past it") {
  Debugger debugger;
  debugger.client.ask("Z0,401000,1");
  debugger.script.breakpoints_fit = false;
  const auto replies = debugger.client.ask_all(kContinue);
  REQUIRE(replies.size() == 2);
  CHECK(contains(from_hex(replies[0].substr(1)).value_or(""), "breakpoint at 0x401000"));
  CHECK(debugger.script.dropped == 1);
  CHECK(debugger.client.ask("g").size() > 16);
}

TEST_CASE("a tree that is lost is a stop at the snapshot, with the reason") {
  Script script;
  Conversation client(tree(), {.launch = [&](const SnapshotTarget& from, std::span<const Pid>) {
                        return std::make_unique<Lost>(from, script);
                      }});
  const auto replies = client.ask_all(kContinue);
  REQUIRE(replies.size() == 2);
  CHECK(contains(from_hex(replies[0].substr(1)).value_or(""), "cannot wait: it is gone"));
  CHECK(replies[1].starts_with("T00thread:p10.10;"));
  CHECK(script.dropped == 1);
}

TEST_CASE(
    "breakpoints that the processor cannot have are declined, or refused when all are in use") {
  Debugger debugger;
  auto& client = debugger.client;
  CHECK(client.ask("Z3,1000,8").empty());
  for (const char* request : {"Z1,1000,1", "Z2,1008,8", "Z4,1014,8"})  // the last one takes two
    CHECK(client.ask(request) == "OK");
  CHECK(client.ask("Z2,1020,4").starts_with('E'));
  CHECK(client.ask("Z0,401000,1") == "OK");
  CHECK(client.ask("z1,1000,1") == "OK");
  CHECK(client.ask("Z2,1020,4") == "OK");
  debugger.told(kContinue, {.kind = Kind::kStepped, .thread = kFirst});
  debugger.script.breakpoints_fit = false;  // pieces that only the target knows
  CHECK(client.ask("z2,1020,4").starts_with('E'));
  CHECK(client.ask("Z2,1020,4").starts_with('E'));
}

TEST_CASE("conditions of breakpoints go to what runs") {
  Debugger debugger;
  CHECK(contains(debugger.client.supported, "ConditionalBreakpoints+"));
  CHECK(debugger.client.ask("Z0,401000,1;X3,220127X1,27") == "OK");
  debugger.told(kContinue, {.kind = Kind::kStepped, .thread = kFirst});
  CHECK(debugger.was_asked("condition 220127"));
  CHECK(debugger.was_asked("condition 27"));
  debugger.script.done.clear();
  CHECK(debugger.client.ask("Z0,401000,1") == "OK");  // again, without any
  CHECK(debugger.script.done == std::vector<std::string>{"remove 16 401000", "insert 16 0 401000"});
  for (const char* request : {"Z0,401000,1;", "Z0,401000,1;X4,2201", "Z0,401000,1;Y1,27"}) {
    INFO(request);
    CHECK(debugger.client.ask(request).starts_with('E'));
  }
}

TEST_CASE("the end of a step is not told of once the thread is to run") {
  for (const char* second : {"c", "r402000,402010"}) {
    Debugger debugger;
    // Only the first one is to step; that the second one has is held back.
    debugger.script.events.push_back({.kind = Kind::kStepped, .thread = kSecond});
    CHECK(contains(debugger.told("vCont;s:p10.10", {.kind = Kind::kStepped, .thread = kFirst}),
                   "thread:p10.10"));
    const std::string both = fmt::format("vCont;{}:p10.11;c:p10.-1", second);
    const Event signal{.kind = Kind::kSignal, .thread = kFirst, .signal = SIGUSR1};
    CHECK(debugger.told(both, signal).starts_with(second[0] == 'c' ? "T1e" : "T05"));
  }
}

TEST_CASE("without vCont, all go on with who steps or gets a signal, unless the client chose") {
  struct Row {
    const char *chosen, *request;
    std::string asked;
    ThreadId stops;
  };
  for (const Row& row : std::vector<Row>{{"", "c", "resume c0:16.17 c0:0.0", kSecond},
                                         {"Hc-1", "s", "resume s0:16.17 c0:0.0", kSecond},
                                         {"Hc0", "C1e", "resume c10:16.17 c0:0.0", kSecond},
                                         {"Hcp10.10", "c", "resume c0:16.16", kFirst},
                                         {"Hcp10.10", "S1e", "resume s10:16.16", kFirst},
                                         {"Hcp10.-1", "c", "resume c0:16.17 c0:16.0", kSecond}}) {
    CAPTURE(row.chosen, row.request);
    Debugger debugger;
    debugger.client.ask("Hgp10.11");
    if (*row.chosen) CHECK(debugger.client.ask(row.chosen) == "OK");
    debugger.told(row.request, {.kind = Kind::kStepped, .thread = row.stops});
    CHECK(debugger.was_asked(row.asked));
  }
}

TEST_CASE("commands of breakpoints go to what runs, with conditions and without") {
  Debugger debugger;
  CHECK(contains(debugger.client.supported, "BreakpointCommands+"));
  CHECK(debugger.client.ask("Z0,401000,1;X3,220127;cmds:0,X1,27X3,220227") == "OK");
  CHECK(debugger.client.ask("Z0,401010,1;cmds:1,X1,27") == "OK");
  debugger.told(kContinue, {.kind = Kind::kStepped, .thread = kFirst});
  for (const char* expected : {"condition 220127", "command 27", "command 220227"}) {
    INFO(expected);
    CHECK(debugger.was_asked(expected));
  }
  for (const char* request :
       {"Z0,401000,1;cmds:0,", "Z0,401000,1;cmds:", "Z1,401000,1;cmds:0,X1,27"}) {
    INFO(request);
    CHECK(debugger.client.ask(request).starts_with('E'));
  }
}

TEST_CASE("which events a client wants to hear of is told at once and at every launch") {
  Debugger debugger;
  auto& client = debugger.client;
  CHECK(client.ask("QCatchSyscalls:1;3c;e7") == "OK");
  CHECK(client.ask("QPassSignals:e;1e") == "OK");
  CHECK(client.ask("QThreadEvents:1") == "OK");
  debugger.told(kContinue, {.kind = Kind::kStepped, .thread = kFirst});
  const Wishes& wishes = debugger.script.wishes;
  CHECK(wishes.system_calls.at(Pid{16}) == std::set<uint64_t>{60, 231});
  CHECK(wishes.passed_signals == std::set<int>{SIGALRM, SIGUSR1});
  CHECK(wishes.threads);
  CHECK(client.ask("QCatchSyscalls:1") == "OK");
  CHECK(wishes.system_calls.at(Pid{16}).empty());
  CHECK(client.ask("QCatchSyscalls:0") == "OK");
  CHECK(wishes.system_calls.empty());
  CHECK(wishes.execs);
}

TEST_CASE("thread by thread a client hears of clones and ends, the last option that fits counts") {
  Debugger debugger;
  auto& client = debugger.client;
  CHECK(contains(client.supported, "QThreadOptions=3"));
  debugger.told(kContinue, {.kind = Kind::kStepped, .thread = kFirst});
  const Wishes& wishes = debugger.script.wishes;
  CHECK(client.ask("QThreadOptions;3") == "OK");
  CHECK(wishes.clones == std::set<ThreadId>{kFirst, kSecond});
  CHECK(wishes.exits == wishes.clones);
  CHECK(client.ask("QThreadOptions;1:p10.-1;2:p10.11") == "OK");
  CHECK(wishes.clones == std::set<ThreadId>{kFirst});
  CHECK(wishes.exits == std::set<ThreadId>{kSecond});
  CHECK(client.ask("QThreadOptions;0:p10.10") == "OK");  // the second one keeps what it has
  CHECK(wishes.clones.empty());
  CHECK(wishes.exits == std::set<ThreadId>{kSecond});
  for (const char* malformed : {"QThreadOptions", "QThreadOptions;", "QThreadOptions;4",
                                "QThreadOptions;1:p10.10;x", "QThreadOptions;1,p10.10"})
    CHECK(client.ask(malformed) == "E16");
  CHECK(wishes.exits == std::set<ThreadId>{kSecond});
}

TEST_CASE("the program's terminal gets a line when it is told to") {
  Debugger debugger;
  CHECK(contains(debugger.client.monitor("input yes"), "Kept until"));
  debugger.told(kContinue, {.kind = Kind::kStepped, .thread = kFirst});
  CHECK(debugger.was_asked("input yes\n"));
  CHECK(debugger.client.monitor("input yes, I do").empty());
  CHECK(debugger.was_asked("input yes, I do\n"));
  CHECK(contains(debugger.client.monitor("ps"), "thread 17 stands still"));
}

TEST_CASE("the signal of a thread that runs can be changed, that of a snapshot cannot") {
  SnapshotBuilder builder;
  builder.process(16).thread(16).last_thread().set_stop_siginfo(std::string("\1\2\3\4\5\6", 6));
  Script script;
  Conversation client(builder.build(), {.launch = launcher(script)});
  CHECK(client.ask("qXfer:siginfo:write::0,\1\2\3\4") == "E16");
  CHECK(client.ask("qXfer:siginfo:write::0:\1\2\3\4") == "4");  // as it is
  CHECK(client.ask("qXfer:siginfo:write::0:\2") == "E01");
  script.events.push_back({.kind = Kind::kStepped, .thread = kFirst});
  client.ask(kContinue);
  CHECK(client.ask("qXfer:siginfo:write::1:\7\7") == "2");
  CHECK(script.done.back() == "siginfo 01070704");
  CHECK(client.ask("qXfer:siginfo:write::5:\7\7") == "E16");
}

TEST_CASE("what the stub can do to what runs is in its list") {
  Debugger debugger;
  const std::string help = debugger.client.monitor("help");
  for (const char* name : {"snapshots", "goto", "restart", "diversion", "on-detach", "input", "ps"})
    CHECK(contains(help, fmt::format("monitor {}", name)));
  CHECK(contains(debugger.client.monitor("diversion"), "Diversion is off"));
  CHECK(contains(debugger.client.monitor("on-detach"), "dropped"));
}

}  // namespace snapgdb::gdbstub
