#include <sys/mman.h>

#include <catch2/catch.hpp>

#include "conversation.h"

namespace snapgdb::gdbstub {
namespace {

std::string open(Conversation& client, std::string_view path) {
  return client.ask("vFile:open:" + to_hex(path) + ",0,0");
}

// The whole file, read in pieces; "" if it cannot be opened.
std::string contents(Conversation& client, std::string_view path, size_t step = 7) {
  const std::string opened = open(client, path);
  if (opened.starts_with("F-1")) return "";
  std::string out;
  while (true) {
    const std::string reply =
        client.ask(fmt::format("vFile:pread:{},{:x},{:x}", opened.substr(1), step, out.size()));
    const std::string data = reply.substr(reply.find(';') + 1);
    if (data.empty()) break;
    out += data;
  }
  client.ask("vFile:close:" + opened.substr(1));
  return out;
}

}  // namespace

TEST_CASE("embedded files are opened by the path the process knew") {
  SnapshotBuilder builder;
  builder.process(16).thread(16);
  builder.file("/usr/bin/tool", "the tool's bytes", pb::FILE_EXECUTABLE);
  Conversation client(builder.build());
  CHECK(client.ask("vFile:setfs:10") == "F0");
  CHECK(contents(client, "/usr/bin/tool") == "the tool's bytes");
  CHECK(open(client, "/usr/bin/other") == "F-1,2");
  CHECK(open(client, "") == "F-1,2");
  CHECK(open(client, "/usr/bin/tool") == "F0");
  CHECK(open(client, "/usr/bin/tool") == "F1");
  CHECK(client.ask("vFile:close:0") == "F0");
  CHECK(client.ask("vFile:close:0") == "F-1,9");
  CHECK(client.ask("vFile:pread:0,10,0") == "F-1,9");
  CHECK(client.ask("vFile:fstat:0") == "F-1,9");
  CHECK(client.ask("vFile:pread:1,4,4") == "F4;tool");
  CHECK(client.ask("vFile:pread:1,4,ffffffffffffffff") == "F0;");
}

TEST_CASE("through a pipe that is slow, files come in small pieces, and whole") {
  SnapshotBuilder builder;
  builder.process(16).thread(16);
  const std::string content(3000, 't');
  builder.file("/usr/bin/tool", content);
  const auto snapshot = builder.build();
  Conversation client(snapshot, {.piped = true});
  open(client, "/usr/bin/tool");
  CHECK(client.ask("vFile:pread:0,2000,0").starts_with("F400;"));
  CHECK(client.ask("vFile:pread:0,10,0") == "F10;tttttttttttttttt");
  CHECK(contents(client, "/usr/bin/tool", 0x2000) == content);
  client.session.pipe_is_fast();
  CHECK(client.ask("vFile:pread:0,2000,0").starts_with("Fbb8;"));
  Conversation socket(snapshot);
  open(socket, "/usr/bin/tool");
  CHECK(socket.ask("vFile:pread:0,2000,0").starts_with("Fbb8;"));
}

TEST_CASE("a file's status is told in the protocol's own form") {
  SnapshotBuilder builder;
  builder.process(16).thread(16);
  builder.file("/usr/bin/tool", std::string(5000, 't'));
  Conversation client(builder.build());
  open(client, "/usr/bin/tool");
  const std::string reply = client.ask("vFile:fstat:0");
  REQUIRE(reply.starts_with("F40;"));
  const std::string status = reply.substr(4);
  REQUIRE(status.size() == 64);
  CHECK(status.substr(8, 4) == std::string("\0\0\x81\xa4", 4));           // 0100644
  CHECK(status.substr(28, 8) == std::string("\0\0\0\0\0\0\x13\x88", 8));  // 5000
  CHECK(status.substr(44, 8) == std::string("\0\0\0\0\0\0\0\x0a", 8));    // blocks of 512
  CHECK(client.ask("vFile:stat:" + to_hex("/usr/bin/tool")) == reply);
  CHECK(client.ask("vFile:lstat:" + to_hex("/nowhere")) == "F-1,2");
}

TEST_CASE("nothing can be written, made or removed") {
  SnapshotBuilder builder;
  builder.process(16).thread(16);
  builder.file("/usr/bin/tool", "tool");
  Conversation client(builder.build());
  for (const char* flags : {"1", "2", "200", "601"})
    CHECK(client.ask(fmt::format("vFile:open:{},{},1ff", to_hex("/usr/bin/tool"), flags)) ==
          "F-1,1e");
  CHECK(client.ask("vFile:pwrite:0,0,abc") == "F-1,1e");
  CHECK(client.ask("vFile:unlink:" + to_hex("/usr/bin/tool")) == "F-1,1e");
}

TEST_CASE("a client cannot open files without end") {
  SnapshotBuilder builder;
  builder.process(16).thread(16);
  builder.file("/f", "x");
  Conversation client(builder.build());
  std::string last;
  for (int i = 0; i < 2000; ++i) last = open(client, "/f");
  CHECK(last == "F-1,18");
}

TEST_CASE("the version that a process has mapped is preferred to another of the same name") {
  SnapshotBuilder builder;
  const uint32_t before = builder.file("/lib/libx.so", std::string(4096, 'o'), pb::FILE_LIBRARY);
  const uint32_t after = builder.file("/lib/libx.so", std::string(4096, 'n'), pb::FILE_LIBRARY);
  builder.process(16).thread(16).mapped_file(0x1000, 4096, before, 0, PROT_READ);
  builder.process(32, 16).thread(32).mapped_file(0x1000, 4096, after, 0, PROT_READ);
  Conversation client(builder.build(), {.multi = true});
  client.ask("vFile:setfs:10");
  CHECK(contents(client, "/lib/libx.so", 4096) == std::string(4096, 'o'));
  client.ask("vFile:setfs:20");
  CHECK(contents(client, "/lib/libx.so", 4096) == std::string(4096, 'n'));
}

TEST_CASE("separate debug files are found by build-id below any directory") {
  SnapshotBuilder builder;
  builder.process(16).thread(16);
  builder.file("/srv/debug/tool.debug", "debug info", pb::FILE_DEBUG, "\xab\xcd\xef");
  Conversation client(builder.build());
  CHECK(contents(client, "/usr/lib/debug/.build-id/ab/cdef.debug") == "debug info");
  CHECK(contents(client, "/opt/x/.build-id/ab/cdef.debug") == "debug info");
  CHECK(contents(client, "/srv/debug/tool.debug") == "debug info");
  CHECK(open(client, "/usr/lib/debug/.build-id/ab/cde0.debug") == "F-1,2");
  CHECK(open(client, "/usr/lib/debug/.build-id/.debug") == "F-1,2");
}

TEST_CASE("what /proc said is made again from the records") {
  SnapshotBuilder builder;
  auto& process = builder.process(16).thread(16);
  process.memory(0x400000, "code", PROT_READ | PROT_EXEC, "/usr/bin/tool");
  process.memory(0x7ffc0000, "stack", PROT_READ | PROT_WRITE, "[stack]");
  process.record().set_name("a ) tool");
  process.last_thread().set_name("a ) tool");
  process.record().set_executable("/usr/bin/tool");
  process.record().set_working_directory("/tmp");
  for (const char* word : {"tool", "--flag"}) process.record().add_arguments(word);
  process.record().add_descriptors()->set_target("/dev/null");
  process.thread(17).last_thread().set_name("helper");
  Conversation client(builder.build());

  const std::string maps = contents(client, "/proc/16/maps");
  CHECK(contains(maps, "00400000-00401000 r-xp 00000000 00:00 0 "));
  CHECK(maps.find("/usr/bin/tool") == 73);
  CHECK(contents(client, "/proc/16/task/17/maps") == maps);
  CHECK(contents(client, "/proc/self/maps") == maps);
  CHECK(contains(contents(client, "/proc/16/smaps"), "Size:                  4 kB"));
  CHECK(contents(client, "/proc/16/cmdline") == std::string("tool\0--flag\0", 12));
  CHECK(contents(client, "/proc/16/task/17/comm") == "helper\n");
  CHECK(contains(contents(client, "/proc/16/status"), "State:\tS (sleeping)\n"));
  CHECK(contains(contents(client, "/proc/16/task/17/status"), "Pid:\t17\n"));

  const std::string stat = contents(client, "/proc/16/stat");
  CHECK(stat.starts_with("16 (a ) tool) S 1 16 16 "));
  CHECK(split_blank(trim(stat.substr(stat.rfind(')') + 1))).size() == 50);  // proc(5): 52 in all

  CHECK(client.ask("vFile:readlink:" + to_hex("/proc/16/exe")) == "Fd;/usr/bin/tool");
  CHECK(client.ask("vFile:readlink:" + to_hex("/proc/16/cwd")) == "F4;/tmp");
  CHECK(client.ask("vFile:readlink:" + to_hex("/proc/16/fd/0")) == "F9;/dev/null");
  CHECK(client.ask("vFile:readlink:" + to_hex("/proc/16/fd/1")) == "F-1,2");
  CHECK(client.ask("vFile:readlink:" + to_hex("/proc/16/maps")) == "F-1,16");
  for (const char* path : {"/proc/17/maps", "/proc/16/mem", "/proc/16/task/18/maps", "/proc/16/",
                           "/proc/x/maps", "/proc/", "/proc/16/task/17", "/proc/99999999999/maps"})
    CHECK(open(client, path) == "F-1,2");
}

TEST_CASE("a process has used the time of all its threads, and a thread its own") {
  SnapshotBuilder builder;
  auto& process = builder.process(16).thread(16);
  process.last_thread().set_user_ticks(3);
  process.thread(17).last_thread().set_user_ticks(4);
  Conversation client(builder.build());
  const auto user_ticks = [&](const char* path) {
    const std::string stat = contents(client, path);
    const std::string fields = stat.substr(stat.rfind(')') + 2);
    return std::string(split_blank(fields).at(11));  // the 14th in proc(5), which counts from 1
  };
  CHECK(user_ticks("/proc/16/stat") == "7");
  CHECK(user_ticks("/proc/16/task/17/stat") == "4");
}

TEST_CASE("a process whose leader has exited still has the leader's files") {
  SnapshotBuilder builder;
  auto& process = builder.process(16).thread(17).memory(0x400000, "code", PROT_READ, "/bin/x");
  process.record().set_name("headless");
  Conversation client(builder.build());
  CHECK(contains(contents(client, "/proc/16/task/16/maps"), "/bin/x"));
  CHECK(contents(client, "/proc/16/task/16/comm") == "headless\n");
}

TEST_CASE(
    "large parts of memory that are all zeros are mappings of their own that cores leave out") {
  constexpr uint64_t kGib = uint64_t{1} << 30;
  SnapshotBuilder builder;
  auto& process = builder.process(16).thread(16);
  process.zeros(kGib, kGib);
  process.memory(4 * kGib, "touched", PROT_READ | PROT_WRITE);
  process.zeros(5 * kGib, 1 << 20);
  Conversation client(builder.build());
  const std::string text = contents(client, "/proc/16/smaps");
  const size_t flags = text.find("VmFlags:");
  CHECK(text.starts_with("40000000-80000000 "));
  CHECK(contains(text.substr(flags, text.find('\n', flags) - flags), " dd"));
  CHECK(text.find(" dd") == text.rfind(" dd"));
  CHECK(contains(contents(client, "/proc/16/maps"), "40000000-80000000 "));
}

}  // namespace snapgdb::gdbstub
