#include "core/linux/procfs.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <thread>

#include "core/base/error.h"

using namespace snapgdb;

TEST_CASE("a stat line is read, whatever the program calls itself") {
  const ProcStat stat = parse_stat(
      "4711 (a) b (c) S 1 2 3 34816 5 4194304 100 0 0 0 11 12 0 0 20 -5 1 0 12345 1 2 3 "
      "4194304 4198400 140000 0 0 0 0 0 0 0 0 0 17 1 50 2 0 0 0 94000 95000 96000 "
      "97000 98000 99000 99500 139\n");
  CHECK(stat.name == "a) b (c");
  CHECK(stat.state == 'S');
  CHECK(stat.parent == 1);
  CHECK(stat.foreground_group == 5);
  CHECK(stat.user_ticks == 11);
  CHECK(stat.nice == -5);
  CHECK(stat.start_ticks == 12345);
  CHECK(stat.start_code == 4194304);
  CHECK(stat.cpu == 1);
  CHECK(stat.realtime_priority == 50);
  CHECK(stat.policy == 2);
  CHECK(stat.start_brk == 96000);
  CHECK(stat.env_end == 99500);
  CHECK(stat.exit_status == 139);
  CHECK_THROWS_AS(parse_stat("nonsense"), Error);
}

TEST_CASE("mappings are read with their attributes and odd names") {
  const auto mappings = parse_mappings(
      "00400000-00401000 r-xp 00002000 fd:01 1234                       /a b\\012c (deleted)\n"
      "Size:                  4 kB\n"
      "Rss:                   4 kB\n"
      "Private_Dirty:         8 kB\n"
      "ProtectionKey:         3\n"
      "VmFlags: rd ex mr mw me dd \n"
      "7ffff0000000-7ffff0001000 rw-s 00000000 00:01 7 \n");
  REQUIRE(mappings.size() == 2);
  CHECK(mappings[0].start == 0x400000);
  CHECK(mappings[0].protection == (PROT_READ | PROT_EXEC));
  CHECK(mappings[0].offset == 0x2000);
  CHECK(mappings[0].device_major == 0xfd);
  CHECK(mappings[0].inode == 1234);
  CHECK(mappings[0].name == "/a b\nc");
  CHECK(mappings[0].deleted);
  CHECK(mappings[0].size(MappingSize::kPrivateDirty) == 8192);
  CHECK(mappings[0].protection_key == 3);
  CHECK(mappings[0].has_flag("dd"));
  CHECK_FALSE(mappings[0].has_flag("d"));
  CHECK(mappings[1].shared);
  CHECK(mappings[1].name.empty());
}

TEST_CASE("fields are read as text, numbers and lists") {
  const ProcFields fields(
      "pos:\t12\nflags:\t0100002\nSigCgt:\t8000000000000000\nlock:\t1\nlock:\t2\n");
  CHECK(fields.number("pos") == 12);
  CHECK(fields.number("flags", 8) == 0100002);
  CHECK(fields.number("SigCgt", 16) == uint64_t{1} << 63);
  CHECK(fields.all("lock") == std::vector<std::string_view>{"1", "2"});
  CHECK(fields.text("none").empty());
  CHECK(fields.number("none") == 0);
}

TEST_CASE("one's own process is read as it is") {
  const auto self = ProcDirectory::of(Pid{::getpid()});
  CHECK(self.stat().parent == ::getppid());
  CHECK(std::ranges::count(self.tasks(), Tid{::getpid()}) == 1);
  CHECK(self.link("cwd").starts_with('/'));
  CHECK_FALSE(self.read_if_allowed("no-such-file"));
  CHECK_THROWS_AS(self.read("no-such-file"), SystemError);
  CHECK_FALSE(ProcDirectory::of_if_alive(Pid{0x7fffffff}));
}

TEST_CASE("whoever makes a task changes what is counted of them") {
  const TaskCount before = TaskCount::now();
  REQUIRE(before.is_known());
  std::thread([] {}).join();
  CHECK_FALSE(TaskCount::now() == before);
}
