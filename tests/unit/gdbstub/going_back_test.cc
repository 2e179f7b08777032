// Back to the snapshot: restarts, calls in a diversion, other snapshots.

#include <catch2/catch.hpp>

#include "running.h"

namespace snapgdb::gdbstub {

TEST_CASE("restart drops what runs and what was changed, and keeps breakpoints") {
  Debugger debugger;
  auto& client = debugger.client;
  client.ask("Z0,401000,1");
  client.ask("M1000,1:41");
  debugger.told(kContinue, {.kind = Kind::kStepped, .thread = kFirst});
  client.ask("M1000,1:42");
  const std::string text = client.monitor("restart");
  CHECK(contains(text, "maintenance flush register-cache"));
  CHECK(debugger.script.dropped == 1);
  CHECK(client.ask("m1000,1") == to_hex("f"));
  debugger.script.done.clear();
  client.ask_all(kContinue);
  CHECK(debugger.was_asked("insert 16 0 401000"));
}

TEST_CASE("gdb's run is a restart, of its own program only") {
  Debugger debugger(true);
  auto& client = debugger.client;
  client.ask("vAttach;20");
  debugger.told("vCont;c:p20.-1", {.kind = Kind::kStepped, .thread = kOther});
  CHECK(client.ask("vKill;20") == "OK");
  CHECK(client.ask("vRun;") == "T00thread:p20.20;core:0;");
  // gdb goes on at once: that is where the program is to be, and not some time later.
  CHECK(client.ask("vCont;c:p20.-1") == "T00thread:p20.20;core:0;");
  CHECK(debugger.script.launched == 1);
  debugger.told("vCont;c:p20.-1", {.kind = Kind::kStepped, .thread = kOther});
  CHECK(debugger.script.launched == 2);
  CHECK(client.ask("vRun;2f62696e2f7472756500").starts_with('E'));
  CHECK(client.ask("qC") == "QCp20.20");
}

TEST_CASE("who looks at several processes is told to forget the memory of each") {
  Debugger one;
  CHECK_FALSE(contains(one.client.monitor("restart"), "thread apply all"));
  Debugger both(true);
  both.client.ask("vAttach;10");
  both.client.ask("vAttach;20");
  CHECK(
      contains(both.client.monitor("restart"),
               "`thread apply all -q -s maintenance flush dcache`, `thread apply all -q -s info"));
}

// Of a library that the program has loaded since the snapshot, perhaps. What gdb knows of, it sets
// aside.
TEST_CASE("a breakpoint where the snapshot has no memory is refused, and in nobody's way") {
  Debugger debugger;
  auto& client = debugger.client;
  CHECK(client.ask("Z0,401000,1") == "OK");
  CHECK(client.ask("Z0,402000,1").starts_with('E'));
  CHECK(client.ask("Z1,402000,1") == "OK");  // of the processor, anywhere
  debugger.told(kContinue, {.kind = Kind::kStepped, .thread = kFirst});
  CHECK(debugger.was_asked("insert 16 0 401000"));
  CHECK_FALSE(debugger.was_asked("insert 16 0 402000"));
  CHECK(client.ask("Z0,402000,1") == "OK");  // what runs knows itself what it has
  client.monitor("restart");
  debugger.script.done.clear();
  client.ask_all(kContinue);  // though gdb believes it inserted
  CHECK(debugger.was_asked("insert 16 0 401000"));
  CHECK_FALSE(debugger.was_asked("insert 16 0 402000"));
  CHECK(client.ask("z0,402000,1") == "OK");
}

// ---- Another program, by execve(2) ----

namespace {

const Event kOtherExecutes{.kind = Kind::kExec, .thread = kOther, .path = "/bin/other"};

}  // namespace

TEST_CASE("run goes back over an execve: by either name, and the client hears what is there") {
  Debugger debugger(true);
  auto& client = debugger.client;
  client.ask("vAttach;20");
  debugger.told("vCont;c:p20.-1", kOtherExecutes);
  CHECK(client.ask("vKill;20") == "OK");
  CHECK(client.ask("vRun;" + to_hex("/bin/never")).starts_with('E'));
  CHECK(client.ask("vRun;" + to_hex("/bin/other")) == "T00thread:p20.20;core:0;");
  CHECK(client.ask("Z0,402000,1") == "OK");  // of the program that gdb still believes in
  CHECK(client.ask("vCont;c:p20.-1").starts_with("T05exec:;thread:p20.20;"));
  CHECK(client.ask("vCont;c:p20.-1") == "T00thread:p20.20;core:0;");
  CHECK(debugger.script.launched == 1);
  debugger.told("vCont;c:p20.-1", {.kind = Kind::kStepped, .thread = kOther});
  CHECK(debugger.script.launched == 2);
  CHECK_FALSE(debugger.was_asked("insert 32 0 402000"));
}

TEST_CASE("after an execve, restart tells how gdb comes back to the program of the snapshot") {
  Debugger debugger;
  auto& client = debugger.client;
  debugger.told(kContinue, {.kind = Kind::kExec, .thread = kFirst, .path = "/bin/other"});
  CHECK(contains(client.monitor("restart"), "gdb still takes 16 for /bin/other: `file target:"));
  client.ask("!");
  CHECK(contains(client.monitor("restart"), "gdb still takes 16 for /bin/other: `run`"));
  CHECK_FALSE(contains(Debugger().client.monitor("restart"), "still takes"));
}

TEST_CASE("who has ended, or has become another program, is to be attached to again") {
  Debugger debugger(true);
  auto& client = debugger.client;
  client.ask("vAttach;10");
  client.ask("vAttach;20");
  CHECK(client.monitor("again").empty());
  debugger.told("vCont;c", kOtherExecutes);
  client.ask("vKill;10");
  CHECK_FALSE(contains(client.monitor("restart"), "still takes"));  // scripts see to it
  CHECK(client.monitor("again") == "16: attach\n32: detach\n");
  client.ask("D;20");
  CHECK(client.monitor("again") == "16: attach\n32: attach, another program\n");
  client.ask("vAttach;20");
  client.ask("vAttach;10");
  CHECK(client.monitor("again").empty());
}

// ---- Function calls, as gdb 13 makes them ----

namespace {

// Sets the stack pointer and the program counter of the first thread.
void go_to_function(Debugger& debugger, const char* rsp, const char* rip) {
  debugger.client.ask(fmt::format("P7={}", rsp));
  debugger.client.ask(fmt::format("P10={}", rip));
}

std::string call(Debugger& debugger) {
  debugger.client.ask("qXfer:siginfo:read::0,80");
  debugger.client.ask("M1000,1:7a");  // its arguments
  go_to_function(debugger, "f06f000000000000", "0090400000000000");
  return debugger.told(kContinue, {.kind = Kind::kSoftwareBreakpoint, .thread = kFirst});
}

}  // namespace

TEST_CASE("a call in a diversion leaves nothing behind but what was changed before it") {
  Debugger debugger;
  auto& client = debugger.client;
  CHECK(contains(client.monitor("diversion on"), "Diversion is on"));
  client.ask("M1001,1:79");
  const std::string before = client.ask("g");
  call(debugger);
  CHECK(debugger.script.launched == 1);
  CHECK(client.ask("m1000,2") == "7a79");
  client.ask("P7=0070000000000000");
  CHECK(debugger.script.dropped == 0);  // the program counter is still the function's
  client.ask("P10=0010400000000000");
  CHECK(client.ask("m1000,2") == to_hex("f") + "79");
  CHECK(client.ask("g") == before);
  call(debugger);
  CHECK(debugger.script.launched == 2);
  CHECK(debugger.script.dropped == 1);
  CHECK(contains(client.monitor("diversion off"), "the snapshot again"));
  CHECK(debugger.script.dropped == 2);
  CHECK(client.ask("g") == before);
}

TEST_CASE("a call that cannot run is ended by a command, which is told of") {
  const auto refused = [](bool multi) {
    const Launcher in_the_way = [](const SnapshotTarget&, std::span<const Pid>) {
      throw Error("cannot restore", "the pid is taken");
      return std::unique_ptr<RunningTarget>();
    };
    Conversation client(tree(), {.multi = multi, .launch = in_the_way});
    if (multi) client.ask("vAttach;10");
    client.ask("qXfer:siginfo:read::0,80");
    client.ask("P7=f06f000000000000");
    client.ask("P10=0090400000000000");
    return from_hex(client.ask_all(kContinue).front().substr(1)).value_or("");
  };
  CHECK(contains(refused(false), "nothing has run: cannot restore: the pid is taken"));
  CHECK(contains(refused(false), "`return` ends the call"));
  CHECK_FALSE(contains(refused(true), "`return`"));  // `snapgdb debug` has set gdb up
}

TEST_CASE("a string for a call stays where a call of malloc has made room for it") {
  Debugger debugger;
  auto& client = debugger.client;
  client.monitor("diversion on");
  client.ask("P0=0410000000000000");
  const std::string before = client.ask("g");
  call(debugger);  // returns 0x1004
  go_to_function(debugger, "0070000000000000", "0010400000000000");
  CHECK(client.ask("z0,402000,1") == "OK");
  CHECK(client.ask("M1004,2:6869") == "OK");
  CHECK(client.ask("m1000,1") == "7a");
  call(debugger);
  CHECK(debugger.script.launched == 1);
  CHECK(client.ask("m1004,2") == "6869");
  go_to_function(debugger, "0070000000000000", "0010400000000000");
  CHECK(client.ask("m1004,1") == to_hex("t"));
  CHECK(client.ask("g") == before);
  CHECK(client.ask("M1005,1:41") == "OK");  // elsewhere: the user's own
  CHECK(client.ask("m1000,1") == to_hex("f"));
}

TEST_CASE("a call without a diversion goes on from where it ended, and restart from before it") {
  Debugger debugger;
  auto& client = debugger.client;
  const std::string before = client.ask("g");
  call(debugger);
  client.ask("P7=0070000000000000");
  client.ask("P10=0010400000000000");
  CHECK(debugger.script.dropped == 0);
  CHECK(contains(client.monitor("diversion on"), "on, from the snapshot only"));
  client.ask("M1002,1:41");
  CHECK(client.monitor("diversion off") == "Diversion is off.\n");  // of what runs, nothing is lost
  CHECK(debugger.script.dropped == 0);
  CHECK(client.ask("m1002,1") == "41");
  client.monitor("restart");
  CHECK(client.ask("g") == before);
  CHECK(client.ask("m1000,1") == to_hex("f"));
}

TEST_CASE("a register that the user has changed is no call, and no end of one") {
  Debugger debugger;
  auto& client = debugger.client;
  client.ask("qXfer:siginfo:read::0,80");  // p $_siginfo
  client.ask("P0=4100000000000000");
  debugger.told(kContinue, {.kind = Kind::kStepped, .thread = kFirst});
  client.ask("P0=4100000000000000");
  CHECK(debugger.script.dropped == 0);
  client.monitor("diversion off");
  CHECK(client.ask("p0") == "4100000000000000");
}

// ---- Several snapshots ----

namespace {

class Moments : public Image {
 public:
  void add(SnapshotBuilder& builder) {
    sequences_.push_back(sequences_.size() + 1);
    builder.record().set_sequence(sequences_.back());
    moments_.push_back(builder.build());
  }
  std::vector<uint64_t> snapshots() const override { return sequences_; }
  std::shared_ptr<const Snapshot> snapshot(uint64_t sequence) const override {
    return moments_.at(sequence - 1);
  }
  Verification verify(Progress*) const override { return {}; }

 private:
  std::vector<uint64_t> sequences_;
  std::vector<std::shared_ptr<const Snapshot>> moments_;
};

// The second has a thread more than the first, the third another process.
std::shared_ptr<const Image> three_moments() {
  const auto image = std::make_shared<Moments>();
  for (const int step : {1, 2}) {
    SnapshotBuilder builder;
    auto& process = builder.process(16).thread(16).memory(0x1000, fmt::format("{}", step),
                                                          PROT_READ | PROT_WRITE);
    if (step == 2) process.thread(17);
    builder.record().set_reason(fmt::format("step\x1b {}", step));
    image->add(builder);
  }
  SnapshotBuilder other;
  other.process(99).thread(99);
  image->add(other);
  return image;
}

// A child that is there at first, and another one later.
std::shared_ptr<const Image> changing_family() {
  const auto image = std::make_shared<Moments>();
  for (const int child : {32, 48}) {
    SnapshotBuilder builder;
    builder.process(16)
        .thread(16)
        .memory(0x1000, "parent", PROT_READ)
        .record()
        .set_executable(fmt::format("/bin/before-{}", child));
    builder.process(child, 16).thread(child, 0x401000, 0x7000).memory(0x1000, "child", PROT_READ);
    image->add(builder);
  }
  return image;
}

}  // namespace

TEST_CASE("the snapshots of an image are listed, and one goes from one to another") {
  const auto image = three_moments();
  Script script;
  Conversation client(image->snapshot(2), {.image = image, .launch = launcher(script)});
  const std::string list = client.monitor("snapshots");
  CHECK(contains(list, "    1  "));
  CHECK(contains(list, "*   2  "));
  CHECK(contains(list, "1 process  step\\033 2"));
  client.ask("Hgp10.11");
  client.ask("M1000,1:78");
  script.events.push_back({.kind = Kind::kStepped, .thread = kSecond});
  client.ask(kContinue);
  CHECK(contains(client.monitor("goto 1"), "This is snapshot 1 of 3"));
  CHECK(script.dropped == 1);
  CHECK(client.ask("m1000,1") == to_hex("1"));
  CHECK(client.ask("g") == "E03");  // the other thread is not there yet
  client.monitor("goto 2");
  CHECK(client.ask("qC") == "QCp10.11");
  CHECK(client.ask("m1000,1") == to_hex("2"));  // without what was changed
  CHECK(
      contains(client.monitor("goto 3"), "No process that you look at is in snapshot 3: nothing"));
  CHECK(contains(client.monitor("goto"), "goto K: to snapshot K of 1 to 3"));
  for (const char* nowhere : {"goto 0", "goto 4", "goto x"}) {
    INFO(nowhere);
    CHECK(contains(client.monitor(nowhere), "There is no snapshot"));
  }
  CHECK(client.ask("m1000,1") == to_hex("2"));
}

TEST_CASE("who goes to a snapshot is told which thread is not in it") {
  const auto image = three_moments();
  Conversation client(image->snapshot(2), {.image = image});
  client.ask("Hgp10.11");
  CHECK(contains(client.monitor("goto 1"), "Thread 17 is not in it"));
  CHECK(client.ask("Hgp10.10") == "OK");
  CHECK_FALSE(contains(client.monitor("goto 2"), "is not in it"));
}

TEST_CASE("a process that is not in a snapshot is told of, and attached to again on the way back") {
  const auto image = changing_family();
  Conversation client(image->snapshot(1), {.multi = true, .image = image});
  client.ask("!");
  client.ask("vAttach;10");
  client.ask("vAttach;20");
  client.ask("Hgp20.20");
  const std::string said = client.monitor("goto 2");
  CHECK(contains(said, "Not in it, until you go to one that has them: 32\n"));
  CHECK(contains(said, "New in it: 48 (for each: add-inferior, inferior N, attach PID)"));
  CHECK(client.ask("qfThreadInfo") == "mp10.10");
  const std::string unknown = client.ask("g");  // gdb shows it all the same
  CHECK(unknown.find_first_not_of('x') == unknown.npos);
  CHECK(client.ask("m1000,1") == "E03");
  CHECK(client.ask("Tp20.20") == "E03");

  CHECK(client.monitor("again") == "16: detach\n32: detach\n");  // the parent is another program
  CHECK_FALSE(contains(client.monitor("goto 1"), "Not in it"));
  CHECK(client.ask("qfThreadInfo") == "mp10.10,p20.20");
  CHECK(client.ask("m1000,5") == to_hex("child"));
  CHECK_FALSE(client.ask("g") == unknown);
}

TEST_CASE("a process that is not in a snapshot can be detached from, and stays away then") {
  const auto image = changing_family();
  Conversation client(image->snapshot(1), {.multi = true, .image = image});
  client.ask("vAttach;10");
  client.ask("vAttach;20");
  client.monitor("goto 2");
  CHECK(client.ask("D;20") == "OK");
  CHECK(client.ask("D;20") == "E03");
  client.monitor("goto 1");
  CHECK(client.ask("qfThreadInfo") == "mp10.10");
  CHECK(client.ask("vAttach;20").starts_with("T00thread:p20.20;"));
}

TEST_CASE("the process to be shown first is one that the snapshot has") {
  const auto image = changing_family();
  Conversation client(image->snapshot(1), {.pid = 32, .image = image});
  client.ask("D;20");
  CHECK(client.ask("qExecAndArgs") == "U");
  client.monitor("goto 2");
  CHECK(client.ask("qExecAndArgs") == "S;" + to_hex("/bin/before-48") + ";;");
}

}  // namespace snapgdb::gdbstub
