// Processes of what runs: born, attached to, detached from, killed and ended.

#include <catch2/catch.hpp>

#include "running.h"

namespace snapgdb::gdbstub {

TEST_CASE("events of processes that nobody is attached to are nobody's") {
  Debugger debugger;
  debugger.script.events = {{.kind = Kind::kExited, .thread = {Pid{32}, {}}}};
  CHECK(debugger.client.ask_all("vCont;c").empty());
  CHECK(debugger.script.events.empty());
}

TEST_CASE("a child of a fork is attached to, with the breakpoints of its parent") {
  Debugger debugger;
  debugger.client.ask("Z0,401000,1");
  debugger.told(kContinue, {.kind = Kind::kFork, .thread = kFirst, .child = kChild});
  CHECK(contains(debugger.client.ask("qfThreadInfo"), "p30.30"));
  CHECK(debugger.client.ask("qC") == "QCp10.10");
  CHECK(debugger.client.ask("Hgp30.30") == "OK");
  CHECK(debugger.client.ask("z0,401000,1") == "OK");
  CHECK(debugger.was_asked("remove 48 401000"));
  CHECK(debugger.client.ask("D;30") == "OK");  // gdb does not follow it, and it runs on
  CHECK(debugger.was_asked("detach 48"));
  CHECK(debugger.client.ask("qfThreadInfo") == "mp10.10,p10.11");
}

TEST_CASE("a process that ends leaves, and with the last one what ran") {
  Debugger debugger(true);
  debugger.client.ask("vAttach;10");
  debugger.client.ask("vAttach;20");
  debugger.told("vCont;c", {.kind = Kind::kExited, .thread = {Pid{32}, {}}});
  CHECK(debugger.client.ask("qfThreadInfo") == "mp10.10,p10.11");
  CHECK(debugger.script.dropped == 0);
  debugger.told("vCont;c", {.kind = Kind::kKilled, .thread = {Pid{16}, {}}, .signal = SIGKILL});
  CHECK(debugger.script.dropped == 1);
  CHECK(debugger.client.ask("?") == "W00");
  CHECK(debugger.client.ask("vAttach;20").starts_with("T00thread:p20.20;"));
}

TEST_CASE("a process may have ended before the client has heard of another one's end") {
  Debugger debugger(true);
  debugger.client.ask("vAttach;10");
  debugger.client.ask("vAttach;20");
  debugger.script.ended = {Pid{32}, Pid{16}};
  CHECK(debugger.told("vCont;c", {.kind = Kind::kExited, .thread = {Pid{32}, {}}}) ==
        "W00;process:20");
  CHECK(debugger.client.ask("g").starts_with("E"));
  CHECK(debugger.told("vCont;c", {.kind = Kind::kExited, .thread = {Pid{16}, {}}, .value = 1}) ==
        "W01;process:10");
  CHECK(debugger.script.dropped == 1);
}

TEST_CASE("detaching drops what runs, unless it is to run on") {
  Debugger dropping;
  dropping.told(kContinue, {.kind = Kind::kStepped, .thread = kFirst});
  CHECK(dropping.client.ask("D;10") == "OK");
  CHECK(dropping.was_asked("kill 16"));
  CHECK(dropping.script.dropped == 1);

  Debugger letting;
  letting.told(kContinue, {.kind = Kind::kStepped, .thread = kFirst});
  CHECK(contains(letting.client.monitor("on-detach run"), "runs on"));
  CHECK(letting.client.ask("D;10") == "OK");
  CHECK(letting.script.done ==
        std::vector<std::string>{"resume c0:16.0", "halt", "detach 16", "let go"});
}

TEST_CASE("what runs is killed, by vKill one by one and by k altogether") {
  Debugger debugger(true);
  debugger.client.ask("vAttach;10");
  debugger.client.ask("vAttach;20");
  debugger.told("vCont;c", {.kind = Kind::kStepped, .thread = kFirst});
  CHECK(debugger.client.ask("vKill;20") == "OK");
  CHECK(debugger.was_asked("kill 32"));
  CHECK(debugger.client.session.feed(frame("k")).empty());
  CHECK(debugger.client.session.finished());
  CHECK(debugger.script.dropped == 1);
}

TEST_CASE("to attach to a process of a tree that runs is the tree's business") {
  Debugger debugger;
  debugger.told(kContinue, {.kind = Kind::kStepped, .thread = kFirst});
  CHECK(contains(debugger.client.ask("vAttach;20"), "thread:p20.20;"));
  CHECK(debugger.was_asked("attach 32"));
  CHECK(debugger.client.ask("vAttach;63").starts_with('E'));
}

}  // namespace snapgdb::gdbstub
