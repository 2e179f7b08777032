#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/user.h>

#include <catch2/catch.hpp>

#include "conversation.h"

namespace snapgdb::gdbstub {

TEST_CASE("a document is the same in pieces of any size") {
  SnapshotBuilder builder;
  auto& process = builder.process(16);
  for (int tid = 16; tid < 300; ++tid) process.thread(tid).last_thread().set_name("a}b#c");
  Conversation client(builder.build());
  const std::string whole = client.fetch("threads", "", 0x20000);
  CHECK(contains(whole, "<thread id=\"p10.12b\" core=\"0\" name=\"a}b#c\"/>"));
  CHECK(client.fetch("threads", "", 1000) == whole);
  CHECK(client.fetch("threads", "", 17) == whole);
  CHECK(client.ask(fmt::format("qXfer:threads:read::{:x},10", whole.size())) == "l");
  CHECK(client.ask(fmt::format("qXfer:threads:read::{:x},10", whole.size() + 1)).starts_with('E'));
}

TEST_CASE("a document belongs to the thread and annex it was asked for") {
  SnapshotBuilder builder;
  builder.process(16).thread(16).record().set_auxv("first's");
  builder.process(32, 16).thread(32).record().set_auxv("second's");
  Conversation client(builder.build(), {.multi = true});
  client.ask("vAttach;10");
  client.ask("vAttach;20");
  CHECK(client.fetch("auxv") == "second's");
  client.ask("Hgp10.10");
  CHECK(client.ask("qXfer:auxv:read::5,100") == "l's");
  CHECK(client.fetch("auxv") == "first's");
}

TEST_CASE("names from outside cannot break a document") {
  SnapshotBuilder builder;
  auto& process = builder.process(16).thread(16);
  process.last_thread().set_name("<\"&'>\x01\xff\\");
  Conversation client(builder.build());
  CHECK(contains(client.fetch("threads"), "name=\"&lt;&quot;&amp;&apos;&gt;\\001\\377\\\""));
}

TEST_CASE("the executable is that of the process named in the annex") {
  SnapshotBuilder builder;
  builder.process(16).thread(16).record().set_executable("/bin/first");
  builder.process(32, 16).thread(32).record().set_executable("/bin/second");
  Conversation client(builder.build());
  CHECK(client.fetch("exec-file", "20") == "/bin/second");
  CHECK(client.fetch("exec-file", "10") == "/bin/first");
  CHECK(client.fetch("exec-file") == "/bin/first");
  CHECK(client.fetch("exec-file", "63").starts_with('E'));
}

TEST_CASE("what a snapshot does not have is an error, not an empty document") {
  SnapshotBuilder builder;
  builder.process(16).thread(16);
  Conversation client(builder.build());
  CHECK(client.fetch("auxv") == "E02");
  CHECK(client.fetch("siginfo") == "E02");
  CHECK(client.fetch("features", "other.xml") == "E00");
  CHECK(client.fetch("osdata", "nonsense").empty());
  CHECK(client.fetch("osdata", "modules").ends_with("<osdata type=\"modules\">\n</osdata>\n"));
  CHECK(client.ask("qXfer:memory-map:read::0,1000").empty());
}

TEST_CASE("the siginfo is that of the selected thread") {
  SnapshotBuilder builder;
  auto& process = builder.process(16).thread(16).thread(17);
  process.last_thread().set_stop_siginfo("siginfo of 17");
  Conversation client(builder.build());
  CHECK(client.fetch("siginfo").starts_with('E'));
  client.ask("Hgp10.11");
  CHECK(client.fetch("siginfo") == "siginfo of 17");
}

TEST_CASE("threads have the handle by which the C library knows them, if they have one") {
  SnapshotBuilder builder;
  auto& process = builder.process(16).thread(16).thread(17);
  user_regs_struct registers{};
  registers.fs_base = 0x7f8000001740;
  process.last_thread().set_registers(&registers, sizeof registers);
  Conversation client(builder.build());
  const std::string threads = client.fetch("threads");
  CHECK(contains(threads, "handle=\"40170000807f0000\""));
  CHECK(threads.find("handle") == threads.rfind("handle"));
}

TEST_CASE("info os lists the whole tree, whatever is attached") {
  SnapshotBuilder builder;
  builder.process(16).thread(16);
  builder.process(32, 16).thread(32).record().set_name("child <1>");
  Conversation client(builder.build());
  CHECK(contains(client.fetch("osdata"), "processes"));
  CHECK(contains(client.fetch("osdata", "processes"), "child &lt;1&gt;"));
  CHECK(contains(client.fetch("osdata", "threads"), "<column name=\"tid\">32</column>"));
  CHECK(contains(client.fetch("osdata", "procgroups"), "<column name=\"pid\">32</column>"));
}

TEST_CASE("info os lists sockets among the descriptors, and shared memory among the mappings") {
  SnapshotBuilder builder;
  auto& process = builder.process(16).thread(16);
  process.record().add_descriptors()->mutable_file();
  pb::Descriptor& listening = *process.record().add_descriptors();
  listening.set_number(7);
  listening.mutable_socket()->set_domain(AF_INET);
  listening.mutable_socket()->set_type(SOCK_STREAM);
  listening.mutable_socket()->set_local("127.0.0.1:80");
  process.memory(0x10000, "segment", PROT_READ, "/SYSV00001234");
  process.record().mutable_mappings(0)->set_shared(true);
  process.memory(0x20000, "a copy", PROT_READ, "/memfd:private");
  Conversation client(builder.build());
  const std::string inet = client.fetch("osdata", "sockets");
  CHECK(contains(inet, "<column name=\"local port\">80</column>"));
  CHECK(contains(inet, "<column name=\"remote address\">0.0.0.0</column>"));
  const std::string sockets = client.fetch("osdata", "connections");
  CHECK(contains(sockets, "<column name=\"file descriptor\">7</column>"));
  CHECK(contains(sockets, "INET</column>"));
  CHECK(contains(sockets, "127.0.0.1:80"));
  CHECK_FALSE(contains(sockets, "<column name=\"file descriptor\">0</column>"));
  const std::string memory = client.fetch("osdata", "mapped");
  CHECK(contains(memory, "/SYSV00001234"));
  CHECK_FALSE(contains(memory, "private"));
}

TEST_CASE("info os lists objects of System V, with the columns that gdb has for them") {
  SnapshotBuilder builder;
  auto& process = builder.process(16).thread(16);
  process.memory(0x10000, "segment", PROT_READ, "/SYSVffffffff");
  process.record().mutable_mappings(0)->set_inode(5);
  pb::SystemV& objects = *builder.record().add_system_v();
  pb::SharedMemorySegment& segment = *objects.add_shared_memory();
  segment.mutable_permissions()->set_id(5);
  segment.mutable_permissions()->set_key(-1);
  segment.mutable_permissions()->set_mode(0640);
  segment.mutable_permissions()->set_owner(1000);
  segment.set_size(4096);
  pb::SemaphoreSet& semaphores = *objects.add_semaphores();
  semaphores.mutable_permissions()->set_key(0x1234);
  for (const uint32_t value : {0, 32767}) semaphores.add_values(value);
  pb::SystemVMessageQueue& queue = *objects.add_message_queues();
  queue.mutable_permissions()->set_id(7);
  queue.set_maximum_bytes(16384);
  for (const char* text : {"four", "three"}) queue.add_messages()->set_content(text);
  Conversation client(builder.build());
  const auto has = [&](std::string_view table, std::string_view column, std::string_view value) {
    INFO(table << ": " << column);
    CHECK(contains(client.fetch("osdata", table),
                   fmt::format("<column name=\"{}\">{}</column>", column, value)));
  };
  has("shm", "key", "-1");
  has("shm", "shmid", "5");
  has("shm", "permissions", "640");
  has("shm", "user", "1000");
  has("shm", "size", "4096");
  has("shm", "num attached", "1");
  has("semaphores", "key", "4660");
  has("semaphores", "num semaphores", "2");
  has("semaphores", "values", "0 32767");
  has("msg", "msqid", "7");
  has("msg", "num used bytes", "9");
  has("msg", "num messages", "2");
}

}  // namespace snapgdb::gdbstub
