// What runs, in non-stop mode.

#include <catch2/catch.hpp>

#include "running.h"

namespace snapgdb::gdbstub {

TEST_CASE("in non-stop mode each of several children runs on when the client detaches from it") {
  Debugger debugger;
  debugger.client.ask("QNonStop:1");
  debugger.client.ask("vCont;c");
  const ThreadId other{Pid{49}, Tid{49}};
  debugger.script.events = {{.kind = Kind::kFork, .thread = kFirst, .child = kChild},
                            {.kind = Kind::kFork, .thread = kSecond, .child = other}};
  debugger.client.session.on_event();
  debugger.client.ask("vStopped");
  debugger.client.ask("vStopped");
  CHECK(debugger.client.ask("D;30") == "OK");
  CHECK(debugger.client.ask("vCont;c:p10.10") == "OK");  // one parent, while the other stands still
  CHECK(debugger.client.ask("D;31") == "OK");
  CHECK(debugger.was_asked("detach 48"));
  CHECK(debugger.was_asked("detach 49"));
}

TEST_CASE("in non-stop mode nobody runs on of whom the client has not heard yet") {
  Debugger debugger;
  debugger.client.ask("QNonStop:1");
  debugger.client.ask("vCont;c");
  debugger.script.events = {{.kind = Kind::kStepped, .thread = kFirst},
                            {.kind = Kind::kFork, .thread = kSecond, .child = kChild}};
  debugger.client.session.on_event();
  debugger.client.ask("vCont;c");
  CHECK(debugger.was_asked("resume c0:0.0 but 16.16 but 16.17 but 48.48"));
  debugger.client.ask("vStopped");
  debugger.client.ask("vCont;c:p10.10");
  CHECK(debugger.was_asked("resume c0:16.16 but 16.17 but 48.48"));
  debugger.client.ask("vStopped");
  CHECK(debugger.client.ask("D;30") == "OK");
  debugger.client.ask("vCont;c");
  CHECK(debugger.script.done.back() == "resume c0:0.0");
}

TEST_CASE("in non-stop mode a launch that fails is a stop of every thread that was to run") {
  Conversation client(
      tree(),
      {.launch = [](const SnapshotTarget&, std::span<const Pid>) -> std::unique_ptr<RunningTarget> {
        throw Error("cannot restore", "the pid is taken");
      }});
  client.ask("QNonStop:1");
  const std::string out = client.session.feed(frame("vCont;s:p10.11"));
  CHECK(out.starts_with("$OK#9a%Stop:T00thread:p10.11;"));
  CHECK(contains(client.session.take_aside(), "nothing has run: cannot restore"));
  CHECK(client.ask("vStopped") == "OK");
}

TEST_CASE("in non-stop mode threads stop one by one, each with a notice") {
  Debugger debugger;
  auto& client = debugger.client;
  CHECK(client.ask("QNonStop:1") == "OK");
  CHECK(client.ask("?").starts_with("T00thread:p10.10;"));
  CHECK(client.ask("vStopped") == "OK");
  // gdb aborts if it connects to more than one that stands still.
  CHECK_FALSE(contains(client.session.feed(frame("Hgp10.10")), "%Stop"));
  CHECK(contains(client.session.feed(frame("g")), "%Stop:T00thread:p10.11;"));
  CHECK(client.ask("vStopped") == "OK");
  CHECK_FALSE(contains(client.session.feed(frame("g")), "%Stop"));
  CHECK(client.ask("vCont;c:p10.10") == "OK");
  debugger.script.events = {{.kind = Kind::kSoftwareBreakpoint, .thread = kFirst},
                            {.kind = Kind::kStopped, .thread = kSecond}};
  debugger.script.output = "said";
  CHECK(client.session.on_event().starts_with("%Stop:T05swbreak:;thread:p10.10;"));
  CHECK(client.session.take_aside() == "said");
  CHECK(client.session.take_aside().empty());
  debugger.script.events = {{.kind = Kind::kSignal, .thread = kFirst, .signal = SIGUSR1}};
  CHECK(client.session.on_event().empty());  // one notification at a time
  CHECK(client.ask("vStopped").starts_with("T00thread:p10.11;"));
  CHECK_FALSE(debugger.was_asked("halt"));
  CHECK(client.ask("vStopped").starts_with("T1ethread:p10.10;"));
  CHECK(client.ask("vStopped") == "OK");
}

TEST_CASE("in non-stop mode nothing more is told of a process that has ended than that it has") {
  Debugger debugger;
  auto& client = debugger.client;
  client.ask("QNonStop:1");
  CHECK(client.ask("vCont;c:p10.-1") == "OK");
  debugger.script.events = {{.kind = Kind::kStopped, .thread = kFirst},
                            {.kind = Kind::kStopped, .thread = kSecond}};
  CHECK(client.session.on_event().starts_with("%Stop:T00thread:p10.10;"));
  debugger.script.events = {{.kind = Kind::kExited, .thread = {Pid{16}, {}}}};
  CHECK(client.session.on_event().empty());
  CHECK(client.ask("vStopped") == "W00;process:10");
  CHECK(client.ask("vStopped") == "OK");
}

TEST_CASE("in non-stop mode attaching is confirmed, and each thread of the process has a notice") {
  Debugger debugger(true);
  auto& client = debugger.client;
  client.ask("QNonStop:1");
  const std::string out = client.session.feed(frame("vAttach;10"));
  CHECK(out.starts_with("$OK#9a%Stop:T00thread:p10.10;"));
  CHECK(client.ask("vStopped").starts_with("T00thread:p10.11;"));
  CHECK(client.ask("vStopped") == "OK");
}

TEST_CASE("in non-stop mode a tree that is lost is a stop of every thread") {
  Script script;
  Conversation client(tree(), {.launch = [&](const SnapshotTarget& from, std::span<const Pid>) {
                        return std::make_unique<Lost>(from, script);
                      }});
  client.ask("QNonStop:1");
  CHECK(client.ask("vCont;c") == "OK");
  CHECK(client.session.on_event().starts_with("%Stop:T00thread:p10.10;"));
  CHECK(contains(client.session.take_aside(), "cannot wait: it is gone"));
  CHECK(client.ask("vStopped").starts_with("T00thread:p10.11;"));
  CHECK(client.ask("vStopped") == "OK");
}

TEST_CASE(
    "in non-stop mode, whoever ran when one goes back is said to stand still, and only those") {
  Debugger debugger;
  auto& client = debugger.client;
  const auto restart = [&] { return client.session.feed(frame("qRcmd," + to_hex("restart"))); };
  client.ask("QNonStop:1");
  client.ask("?");
  client.ask("vStopped");
  client.ask("g");  // brings the second one
  client.ask("vStopped");
  CHECK_FALSE(contains(restart(), "%Stop"));
  client.ask("vCont;c:p10.11");
  CHECK(contains(restart(), "%Stop:T00thread:p10.11;"));
  CHECK(client.ask("vStopped") == "OK");
  CHECK_FALSE(contains(restart(), "%Stop"));
  CHECK_FALSE(contains(client.session.feed(frame("vCont;t")), "%Stop"));
}

TEST_CASE("in non-stop mode, a stop that the client was not sent is one of the snapshot's") {
  Debugger debugger;
  auto& client = debugger.client;
  client.ask("QNonStop:1");
  client.ask("vCont;c");
  debugger.script.events = {{.kind = Kind::kSoftwareBreakpoint, .thread = kFirst},
                            {.kind = Kind::kSoftwareBreakpoint, .thread = kSecond}};
  CHECK(contains(client.session.on_event(), "%Stop:T05swbreak:;thread:p10.10;"));
  client.monitor("restart");
  CHECK(client.ask("vStopped").starts_with("T00thread:p10.11;"));
  CHECK(client.ask("vStopped") == "OK");
}

TEST_CASE("in non-stop mode, to stop what stands still already is answered with its stop") {
  Debugger debugger;
  debugger.client.ask("QNonStop:1");
  const std::string out = debugger.client.session.feed(frame("vCont;t:p10.11"));
  CHECK(out.starts_with("$OK#9a%Stop:T00thread:p10.11;"));
  CHECK(debugger.client.ask("vStopped") == "OK");
  CHECK(debugger.script.launched == 0);
}

TEST_CASE("in non-stop mode threads are stopped by name, or interrupted") {
  Debugger debugger;
  auto& client = debugger.client;
  client.ask("QNonStop:1");
  CHECK(client.ask("vCont;t:p10.11") == "OK");  // nothing runs yet
  CHECK(debugger.script.launched == 0);
  client.ask("vCont;c");
  CHECK(client.ask("vCont;t:p10.11") == "OK");
  CHECK(debugger.was_asked("stop 16.17"));
  CHECK(client.ask("vCtrlC") == "OK");
  CHECK(debugger.was_asked("interrupt"));
  CHECK(client.ask("QNonStop:0") == "OK");
  CHECK(debugger.was_asked("halt"));
}

}  // namespace snapgdb::gdbstub
