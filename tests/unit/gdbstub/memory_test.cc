#include <sys/mman.h>

#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "conversation.h"

namespace snapgdb::gdbstub {
namespace {

// Two pages with content, a hole that was not captured, and a zero page.
std::shared_ptr<const Snapshot> snapshot() {
  SnapshotBuilder builder;
  auto& process = builder.process(16).thread(16);
  process.memory(0x1000, fmt::format("{:a<4096}needle{:b<4090}", "", ""), PROT_READ | PROT_WRITE,
                 "[heap]");
  process.unavailable(0x3000, 4096, "refused").zeros(0x4000, 4096);
  builder.process(32, 16).thread(32).memory(0x1000, "other", PROT_READ);
  return builder.build();
}

}  // namespace

TEST_CASE("memory is read as far as there is any, and never as zeros where there is none") {
  Conversation client(snapshot());
  CHECK(client.ask("m2000,6") == to_hex("needle"));
  CHECK(client.ask("m1ffe,4") == to_hex("aane"));
  CHECK(client.ask("m2ffe,10") == to_hex("bb"));
  CHECK(client.ask("m3000,4") == "E0e");
  CHECK(client.ask("m0,4") == "E0e");
  CHECK(client.ask("m4000,4") == "00000000");
  CHECK(client.ask("m4ffe,10") == "0000");
  CHECK(client.ask("mffffffffffffffff,10") == "E0e");
  CHECK(client.ask("m1000,ffffffffffffffff").size() == kPacketSize);
}

TEST_CASE("binary reading carries a b and the same bytes") {
  Conversation client(snapshot());
  CHECK(client.ask("x2000,6") == "bneedle");
  CHECK(client.ask("x2ffe,10") == "bbb");
  CHECK(client.ask("x3000,4") == "E0e");
  CHECK(client.ask("x2000,0") == "b");
}

TEST_CASE("binary reading keeps to the packet size however much must be escaped") {
  SnapshotBuilder builder;
  builder.process(16).thread(16).memory(0x10000, std::string(kPacketSize, '#'), PROT_READ);
  Conversation client(builder.build());
  CHECK(client.ask(fmt::format("x10000,{:x}", kPacketSize)).size() == kPacketSize / 2);
}

TEST_CASE("what is written is read again, by this session only") {
  const auto shared = snapshot();
  Conversation client(shared);
  CHECK(client.ask("M2000,3:" + to_hex("NEE")) == "OK");
  CHECK(client.ask("X1fff,0:") == "OK");
  CHECK(client.ask("X1fff,1:\n") == "OK");
  CHECK(client.ask("m1ffe,9") == to_hex("a\nNEEdleb"));
  CHECK(client.ask("x4000,4") == std::string("b\0\0\0\0", 5));
  CHECK(client.ask("M4ffc,4:01020304") == "OK");
  CHECK(client.ask("m4ffb,10") == "0001020304");
  Conversation another(shared);
  CHECK(another.ask("m2000,6") == to_hex("needle"));
}

TEST_CASE("bytes that are special in a packet can be written") {
  Conversation client(snapshot());
  CHECK(client.ask("X2000,4:$#}*") == "OK");
  CHECK(client.ask("m2000,6") == to_hex("$#}*le"));
}

TEST_CASE("writing to memory that is not there fails as a whole") {
  Conversation client(snapshot());
  CHECK(client.ask("M3000,1:00") == "E0e");
  CHECK(client.ask("M2ffe,4:00000000") == "E0e");
  CHECK(client.ask("m2ffe,2") == to_hex("bb"));
  CHECK(client.ask("Mffffffffffffffff,2:0000") == "E0e");
  CHECK(client.ask("M2000,2:00") == "E16");
}

TEST_CASE("each process has its own memory, unless they share one address space") {
  Conversation client(snapshot(), {.multi = true});
  client.ask("vAttach;10");
  client.ask("vAttach;20");
  CHECK(client.ask("M1000,1:58") == "OK");
  CHECK(client.ask("m1000,5") == to_hex("Xther"));
  client.ask("Hgp10.10");
  CHECK(client.ask("m1000,2") == to_hex("aa"));

  SnapshotBuilder vfork;
  vfork.process(16).thread(16).memory(0x1000, "shared", PROT_READ);
  vfork.process(32, 16).thread(32).record().set_address_space(16);
  Conversation both(vfork.build(), {.multi = true});
  both.ask("vAttach;10");
  both.ask("vAttach;20");
  CHECK(both.ask("M1000,1:58") == "OK");
  both.ask("Hgp10.10");
  CHECK(both.ask("m1000,6") == to_hex("Xhared"));
}

TEST_CASE("memory is searched, up to what is missing") {
  Conversation client(snapshot());
  CHECK(client.ask("qSearch:memory:1000;2000;needle") == "1,2000");
  CHECK(client.ask("qSearch:memory:1000;1006;needle") == "1,2000");
  CHECK(client.ask("qSearch:memory:1000;1005;needle") == "0");
  CHECK(client.ask("qSearch:memory:1000;2000;thread") == "0");
  CHECK(client.ask("qSearch:memory:1000;2001;thread") == "E0e");
}

TEST_CASE("a match that lies across two chunks of the search is found") {
  SnapshotBuilder builder;
  std::string content(200 * 1024, '.');
  content.replace(64 * 1024 + 2, 6, "needle");
  content.replace(190 * 1024, 6, "second");
  builder.process(16).thread(16).memory(0x10000, content, PROT_READ);
  Conversation client(builder.build());
  CHECK(client.ask("qSearch:memory:10000;32000;needle") == "1,20002");
  CHECK(client.ask("qSearch:memory:10000;32000;second") == "1,3f800");
}

TEST_CASE("the checksum is the one of gdb's compare-sections") {
  SnapshotBuilder builder;
  builder.process(16).thread(16).memory(0x1000, "123456789", PROT_READ);
  Conversation client(builder.build());
  CHECK(client.ask("qCRC:1000,9") == "C0376e6e7");  // the check value of CRC-32/MPEG-2
  CHECK(client.ask("qCRC:1fff,2") == "E0e");
}

TEST_CASE("lldb learns of mappings and of the gaps between them") {
  Conversation client(snapshot());
  CHECK(client.ask("qMemoryRegionInfo:1800") ==
        "start:1000;size:2000;permissions:rw;name:" + to_hex("[heap]") + ";");
  CHECK(client.ask("qMemoryRegionInfo:0") == "start:0;size:1000;");
  CHECK(client.ask("qMemoryRegionInfo:5000") == "start:5000;size:ffffffffffffafff;");
}

}  // namespace snapgdb::gdbstub
