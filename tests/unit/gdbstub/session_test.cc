#include <sys/mman.h>

#include <catch2/catch.hpp>

#include "conversation.h"
#include "core/base/error.h"

namespace snapgdb::gdbstub {
namespace {

std::shared_ptr<const Snapshot> one_process() {
  SnapshotBuilder builder;
  builder.process(16)
      .thread(16, 0x401000, 0x7000)
      .thread(17, 0x402000, 0x8000)
      .memory(0x401000, "code", PROT_READ | PROT_EXEC);
  return builder.build();
}

std::shared_ptr<const Snapshot> two_processes() {
  SnapshotBuilder builder;
  builder.process(16).thread(16).thread(17).memory(0x1000, "first", PROT_READ);
  builder.process(32, 16).thread(32).memory(0x1000, "second", PROT_READ);
  return builder.build();
}

// What gdb 13 sends at the beginning, acknowledgements included.
const std::string kOpening =
    "+$qSupported:multiprocess+;swbreak+;hwbreak+#65+$vMustReplyEmpty#3a+$QStartNoAckMode#b0+$Hgp0."
    "0#ad$?#3f$qC#b4$bogus#20";

}  // namespace

TEST_CASE("the opening of a session reads as gdb expects it") {
  Session session(one_process());
  CHECK(session.feed("+$vMustReplyEmpty#3a") == "+$#00");
  CHECK(session.feed("+$!#21") == "+$OK#9a");
  CHECK(session.feed("+$QStartNoAckMode#b0") == "+$OK#9a");
  CHECK(session.feed("+$Hgp0.0#ad") == "$OK#9a");
  CHECK(session.feed("$?#3f") == "$T00thread:10;core:0;#50");
  CHECK(session.feed("$qC#b4") == "$QC10#f5");
  CHECK(session.feed("$bogus#20") == "$#00");
}

TEST_CASE("a session answers the same wherever its input is split") {
  const std::string whole = Session(one_process()).feed(kOpening);
  REQUIRE(contains(whole, "T00thread:p10.10;core:0;"));
  for (size_t at = 0; at <= kOpening.size(); ++at) {
    Session session(one_process());
    const std::string first = session.feed(std::string_view(kOpening).substr(0, at));
    REQUIRE(first + session.feed(std::string_view(kOpening).substr(at)) == whole);
  }
  Session byte_by_byte(one_process());
  std::string out;
  for (const char c : kOpening) out += byte_by_byte.feed({&c, 1});
  CHECK(out == whole);
}

TEST_CASE("a damaged packet is asked for again, and nothing is said twice to one who waits") {
  Session session(one_process());
  CHECK(session.feed("$?#00") == "-");
  CHECK(session.feed("$qC#b4") == "+$QC10#f5");
  CHECK(session.feed("-").empty());
}

// gdb does so after two seconds.
// A second reply would be taken for that to the next packet.
TEST_CASE("a packet that the client repeats before it has seen the reply is answered once") {
  Session session(one_process());
  const std::string once = session.feed("$qC#b4");
  CHECK(session.feed("$qC#b4$qC#b4") == "++");
  CHECK(session.feed("+$qC#b4") == once);
  CHECK(session.feed("$?#3f") != "+");
}

TEST_CASE("without acknowledgements a damaged or oversize packet gets an error, not silence") {
  Conversation client(one_process());
  CHECK(client.session.feed("$g#00") == "$E16#ac");
  std::string large = "ab";
  while (large.size() <= kPacketSize) large += large;
  CHECK(client.session.feed(frame(large)) == "$E16#ac");
  CHECK(client.ask("qC") == "QCp10.10");
}

TEST_CASE("what is advertised is what is implemented") {
  Conversation client(one_process(), {}, "multiprocess+;error-message+");
  CHECK(contains(client.supported, fmt::format("PacketSize={:x};", kPacketSize)));
  CHECK(contains(client.supported, "multiprocess+"));
  size_t tried = 0;
  for (std::string_view feature : split(client.supported, ';')) {
    feature = feature.substr(0, feature.find_first_of("+="));
    if (!feature.starts_with('q') && !feature.starts_with('Q')) continue;
    INFO(feature);
    const std::string request =
        feature.starts_with("qXfer") ? std::string(feature) + "::0,10" : std::string(feature);
    CHECK_FALSE(client.ask(request).empty());
    ++tried;
  }
  CHECK(tried >= 7);
  CHECK_FALSE(client.ask("vCont?").empty());
}

TEST_CASE("features that the client does not know are not used") {
  Conversation client(one_process(), {}, "");
  CHECK_FALSE(contains(client.supported, "multiprocess"));
  CHECK_FALSE(contains(client.supported, "error-message"));
  CHECK(client.ask("qC") == "QC10");
  CHECK(client.ask("Hg11") == "OK");
  CHECK(client.ask("qC") == "QC11");
  CHECK(client.ask("qfThreadInfo") == "m10,11");
}

TEST_CASE("errors carry text for clients that take it, in the form they take") {
  Conversation plain(one_process());
  CHECK(plain.ask("Tp10.99") == "E03");
  Conversation modern(one_process(), {}, "multiprocess+;error-message+");
  CHECK(modern.ask("Tp10.99") == "E.there is no such thread");
  Conversation lldb(one_process());
  CHECK(lldb.ask("QEnableErrorStrings") == "OK");
  CHECK(lldb.ask("Tp10.99") == "E03;" + to_hex("there is no such thread"));
}

TEST_CASE("malformed packets are refused and change nothing") {
  Conversation client(one_process());
  for (const char* request : {"H",
                              "Hx1",
                              "Hgpz.1",
                              "Hgp10.",
                              "Hg99999999999999999999",
                              "T",
                              "Tp",
                              "m",
                              "m10",
                              "m10,",
                              "m,1",
                              "m1z,1",
                              "M10,1",
                              "M10,2:00",
                              "X10,5:ab",
                              "p",
                              "pffff",
                              "P0",
                              "P0=",
                              "P0=zz",
                              "G00",
                              "qCRC",
                              "qCRC:1",
                              "qSearch:memory:",
                              "qSearch:memory:1;2;",
                              "qXfer:threads:read:",
                              "qRcmd,0",
                              "qXfer:threads:read::0",
                              "qXfer:threads:read::zz,1",
                              "vCont;",
                              "vCont;q",
                              "vCont;C",
                              "vCont",
                              "vAttach",
                              "vAttach;zz",
                              "vKill;",
                              "D;zz",
                              "D;63",
                              "vFile:open:zz,0,0",
                              "vFile:pread:0",
                              "vFile:close:",
                              "vFile:setfs:",
                              "qGetTLSAddr:",
                              "Z9,0,0",
                              "Z0,0",
                              "z",
                              "c10",
                              "qThreadExtraInfo",
                              "qMemoryRegionInfo"}) {
    INFO(request);
    CHECK(client.ask(request).starts_with('E'));
  }
  CHECK(client.ask("qC") == "QCp10.10");
}

TEST_CASE("a name is recognised only as a whole") {
  Conversation client(one_process());
  CHECK(client.ask("qCfoo").empty());
  CHECK(client.ask("vContinue").empty());
  CHECK(client.ask("qSupportedX").empty());
  CHECK(client.ask("vFile:openX:").empty());
  CHECK(client.ask("").empty());
}

TEST_CASE("threads are selected and told apart") {
  Conversation client(one_process());
  CHECK(client.ask("Hgp10.11") == "OK");
  CHECK(client.ask("qC") == "QCp10.11");
  CHECK(client.ask("Hgp10.0") == "OK");
  CHECK(client.ask("Hcp10.12") == "E03");
  CHECK(client.ask("qC") == "QCp10.11");
  CHECK(client.ask("Hcp10.10") == "OK");
  CHECK(client.ask("qC") == "QCp10.11");
  CHECK(client.ask("Tp10.11") == "OK");
  CHECK(client.ask("Tp10.12") == "E03");
}

// gdb does not look at the answer to Hg.
TEST_CASE("after a thread that is not there was selected, nothing of another one is told") {
  Conversation client(one_process());
  const std::string first = client.ask("g");
  for (const char* refused : {"Hgp10.12", "Hgp11.11", "Hgp11.0"}) {
    INFO(refused);
    CHECK(client.ask("Hgp10.10") == "OK");
    CHECK(client.ask(refused) == "E03");
    for (const char* request :
         {"g", "p10", "P10=0000000000000000", "qC", "s", "qXfer:siginfo:read::0,80"}) {
      INFO(request);
      CHECK(client.ask(request) == "E03");
    }
  }
  for (const char* request : {"m1000,1", "M1000,1:00", "Z0,401000,1", "qXfer:auxv:read::0,80"}) {
    INFO(request);  // of process 11
    CHECK(client.ask(request) == "E03");
  }
  CHECK(client.ask("?").starts_with("T00thread:p10."));
  CHECK(client.ask("Hgp10.10") == "OK");
  CHECK(client.ask("g") == first);
}

TEST_CASE("the stop reply tells the signal being delivered in gdb's numbering") {
  SnapshotBuilder builder;
  auto& process = builder.process(16).thread(16).thread(17);
  process.last_thread().set_stop_signal(7);  // SIGBUS is 10 in the protocol
  process.last_thread().set_cpu(3);
  builder.record().set_focus_tid(17);
  CHECK(Conversation(builder.build()).ask("?") == "T0athread:p10.11;core:3;");
  process.last_thread().set_job_stopped(true);
  CHECK(Conversation(builder.build()).ask("?") == "T00thread:p10.11;core:3;");
}

TEST_CASE("without a focus the thread with a signal is shown, else the first that has registers") {
  SnapshotBuilder builder;
  auto& process = builder.process(16).thread(16);
  process.last_thread().clear_registers();
  process.thread(17).thread(18);
  builder.record().set_focus_tid(0);
  CHECK(Conversation(builder.build()).ask("qC") == "QCp10.11");
  process.last_thread().set_stop_signal(11);
  CHECK(Conversation(builder.build()).ask("qC") == "QCp10.12");
}

TEST_CASE("a plain connection shows one process, the root or the one asked for") {
  CHECK(Conversation(two_processes()).ask("qfThreadInfo") == "mp10.10,p10.11");
  Conversation child(two_processes(), {.pid = 32});
  CHECK(child.ask("qfThreadInfo") == "mp20.20");
  CHECK(child.ask("m1000,6") == to_hex("second"));
  CHECK(contains(child.session.greeting(), "this is process 32, one of 2"));
  CHECK(Session(one_process()).greeting().empty());
}

TEST_CASE("the signal that a snapshot was taken at is told at the beginning") {
  SnapshotBuilder builder;
  builder.process(16).thread(16);
  builder.record().set_reason("requested");
  CHECK(Session(builder.build()).greeting().empty());
  builder.record().set_reason("SIGSEGV in 16.16");
  CHECK(Session(builder.build()).greeting() == "snapgdb: taken at SIGSEGV in 16.16\n");
}

TEST_CASE("a process that is not there or has nothing to show is refused at once") {
  SnapshotBuilder builder;
  builder.process(16).thread(16).record().set_name("init");
  builder.process(32, 16).record().set_state("Z");
  const auto snapshot = builder.build();
  CHECK_THROWS_WITH(Session(snapshot, {.pid = 99}), Catch::Contains("16 (init)"));
  CHECK_THROWS_WITH(Session(snapshot, {.pid = 32}), Catch::Contains("exit status"));
}

TEST_CASE("in multi mode there is no process until the client attaches to one") {
  Conversation client(two_processes(), {.multi = true});
  CHECK(client.ask("!") == "OK");
  CHECK(client.ask("?") == "W00");
  CHECK(client.ask("qfThreadInfo") == "l");
  CHECK(client.ask("m1000,5") == "E03");
  CHECK(client.ask("g") == "E03");
  CHECK(client.ask("vAttach;20") == "T00thread:p20.20;core:0;");
  CHECK(client.ask("m1000,6") == to_hex("second"));
  CHECK(client.ask("vAttach;20").starts_with('E'));
  CHECK(client.ask("vAttach;63").starts_with('E'));
  CHECK(client.ask("vAttach;10") == "T00thread:p10.10;core:0;");
  CHECK(client.ask("qfThreadInfo") == "mp20.20,p10.10,p10.11");
  CHECK(client.ask("m1000,5") == to_hex("first"));
  CHECK(client.ask("Hgp20.20") == "OK");
  CHECK(client.ask("m1000,6") == to_hex("second"));
  CHECK(client.ask("D;20") == "OK");
  CHECK(client.ask("m1000,5") == to_hex("first"));
  CHECK(client.ask("Hgp20.20") == "E03");
  CHECK(client.ask("m1000,5") == "E03");
  CHECK(client.ask("vKill;10") == "OK");
  CHECK(client.ask("?") == "W00");
  CHECK(client.ask("vAttach;20") == "T00thread:p20.20;core:0;");
}

TEST_CASE("what gdb reads of a new inferior before it selects a thread is that inferior's") {
  Conversation client(two_processes(), {.multi = true});
  client.ask("vAttach;10");
  client.ask("vAttach;20");
  CHECK(client.ask("Hgp0.0") == "OK");
  CHECK(client.ask("qAttached:10") == "1");
  CHECK(client.ask("m1000,5") == to_hex("first"));
  CHECK(
      client.ask("qXfer:exec-file:read:20:0,100").starts_with('E'));  // it has none, but was named
  CHECK(client.ask("m1000,6") == to_hex("second"));
  client.ask("Hgp20.20");
  CHECK(client.ask("qAttached:10") == "1");  // a choice the client has made stands
  CHECK(client.ask("m1000,6") == to_hex("second"));
}

TEST_CASE("continuing is refused in words, and changes nothing") {
  Conversation client(one_process());
  const std::string before = client.ask("g");
  for (const char* request :
       {"vCont;c", "vCont;s:p10.11;c", "vCont;C0b:p10.-1", "c", "s", "C0b", "S05"}) {
    INFO(request);
    const auto replies = client.ask_all(request);
    REQUIRE(replies.size() == 2);
    CHECK(replies[0].starts_with('O'));
    CHECK(contains(from_hex(replies[0].substr(1)).value_or(""), "nothing has run"));
    CHECK(replies[1].starts_with("T00thread:p10."));
  }
  CHECK(client.ask("vCont;s:p10.11;c").starts_with("T00thread:p10.11;"));
  CHECK(client.ask("qC") == "QCp10.11");  // the thread of a stop is the one gdb means then
  CHECK(client.ask("Hgp10.10") == "OK");
  CHECK(client.ask("g") == before);
}

TEST_CASE("the stop after a refusal is that of a thread of the process to be continued") {
  Conversation client(two_processes(), {.multi = true});
  client.ask("vAttach;10");
  client.ask("Hgp10.11");
  client.ask("vAttach;20");
  CHECK(client.ask("vCont;c:p10.-1") == "T00thread:p10.11;core:0;");
}

TEST_CASE("lldb gets the refusal as the reason of the stop, since it goes on after one without") {
  Conversation client(one_process());
  client.ask("QEnableErrorStrings");
  const auto replies = client.ask_all("vCont;c");
  REQUIRE(replies.size() == 1);
  CHECK(contains(replies[0], ";reason:exception;description:" + to_hex("snapgdb: nothing")));
}

TEST_CASE("breakpoints are accepted, so that it is the continue that is refused") {
  Conversation client(one_process());
  for (const char* request : {"Z0,401000,1", "z0,401000,1", "Z2,7000,8", "z2,7000,8"})
    CHECK(client.ask(request) == "OK");
}

TEST_CASE("nothing is killed, started or restarted") {
  Conversation client(one_process());
  CHECK(client.ask("vRun;2f62696e2f7472756500").starts_with('E'));
  CHECK(client.session.feed(frame("R00")).empty());  // which expects no reply
  CHECK(client.session.feed(frame("k")).empty());
  CHECK(client.session.finished());
  CHECK(client.session.feed(frame("g")).empty());
}

TEST_CASE("monitor commands tell what gdb has no command for") {
  SnapshotBuilder builder;
  auto& process = builder.process(16).thread(16);
  process.record().add_arguments("worker\x1b[31m");
  process.last_thread().set_name("main\n");
  process.unavailable(0x5000, 4096, "it was locked");
  process.unavailable(0x9000, 4096, "it is the kernel's", KeptBy::kKernel);
  builder.process(32, 16).thread(32);
  builder.file("/bin/worker", "ELF", pb::FILE_EXECUTABLE);
  auto* missing = builder.record().add_missing();
  missing->set_pid(16);
  missing->set_resource("io_uring");
  missing->set_reason("the kernel does not tell");
  Conversation client(builder.build());
  CHECK(contains(client.monitor("help"), "monitor ps"));
  CHECK(contains(client.monitor(""), "monitor ps"));
  CHECK(contains(client.monitor("ps"), "16 S (child of 1): worker\\033[31m"));
  CHECK(contains(client.monitor("ps"), "thread 16 S main\\012"));
  CHECK(contains(client.monitor("process 32"), "snapgdb IMG --pid 32"));
  CHECK(contains(client.monitor("process 33"), "no process 33"));
  CHECK(contains(client.monitor("files"), "/bin/worker"));
  CHECK(contains(client.monitor("missing"), "io_uring: the kernel does not tell"));
  CHECK(contains(client.monitor("missing"), "4.00 KiB of memory: it was locked"));
  CHECK(client.monitor("missing").find("it was locked") <
        client.monitor("missing").find("What nobody can read, the program neither:"));
  CHECK(contains(client.monitor("reboot"), "no `monitor reboot`"));
  CHECK(contains(client.session.greeting(), "1 thing is missing"));
}

TEST_CASE("gdb 17 learns what program it is, and with which arguments") {
  SnapshotBuilder builder;
  auto& process = builder.process(16).thread(16).record();
  process.set_executable("/bin/x");
  for (const char* word : {"x", "plain-1.0", "", "two words", "it's"}) process.add_arguments(word);
  builder.process(17, 16).thread(17);
  const auto snapshot = builder.build();
  const std::string words = R"(plain-1.0 '' 'two words' 'it'\''s')";
  CHECK(Conversation(snapshot).ask("qExecAndArgs") ==
        "S;" + to_hex("/bin/x") + ";" + to_hex(words) + ";");
  CHECK(Conversation(snapshot, {.multi = true}).ask("qExecAndArgs").starts_with("S;2f62"));
  CHECK(Conversation(snapshot, {.pid = 17}).ask("qExecAndArgs") == "U");
}

TEST_CASE("a client may send the arguments of run as one, if we say so") {
  SnapshotBuilder builder;
  builder.process(16).thread(16);
  const auto snapshot = builder.build();
  CHECK(contains(Conversation(snapshot, {}, "single-inf-arg+").supported, "single-inf-arg+"));
  CHECK_FALSE(contains(Conversation(snapshot).supported, "single-inf-arg"));
  CHECK(Conversation(snapshot, {.multi = true}).ask("vRun;;" + to_hex("a 'b c'")).starts_with("T"));
}

TEST_CASE("symbols are declined at the first offer, tracepoints unknown") {
  Conversation client(one_process());
  CHECK(client.ask("qSymbol::") == "OK");
  CHECK(client.ask("qTStatus").empty());
  CHECK(client.ask("vMustReplyEmpty").empty());
}

}  // namespace snapgdb::gdbstub
