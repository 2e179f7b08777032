#include "gdbstub/live/live_memory.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstring>

namespace snapgdb::gdbstub {
namespace {

constexpr size_t kPage = 4096;

// A child with a page of code that it may not write, in memory that we see as well.
struct Child {
  Child() {
    page = static_cast<uint8_t*>(
        ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    std::memset(page, 0x90, kPage);
    pid = ::fork();
    if (pid == 0)
      while (true) ::pause();
  }
  ~Child() {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    ::munmap(page, kPage);
  }
  uint64_t at(size_t offset) const { return reinterpret_cast<uint64_t>(page) + offset; }

  uint8_t* page;
  pid_t pid;
};

std::array<std::byte, 4> read_at(const LiveMemory& memory, uint64_t address) {
  std::array<std::byte, 4> bytes{};
  CHECK(memory.read(address, bytes) == bytes.size());
  return bytes;
}

constexpr std::array<std::byte, 4> kNops{std::byte{0x90}, std::byte{0x90}, std::byte{0x90},
                                         std::byte{0x90}};

TEST_CASE("a breakpoint is in memory, and nobody who reads it here sees it") {
  const Child child;
  LiveMemory memory(Tid{child.pid});
  REQUIRE(memory.insert(child.at(2), {.conditions = {"condition"}}));
  CHECK(child.page[2] == 0xcc);
  CHECK(read_at(memory, child.at(0)) == kNops);
  CHECK(read_at(memory, child.at(2)) == kNops);
  REQUIRE(memory.breakpoints(child.at(2)));
  CHECK(memory.breakpoints(child.at(2))->begin()->second.conditions.front() == "condition");
  CHECK_FALSE(memory.breakpoints(child.at(1)));
  memory.remove(child.at(2));
  CHECK(child.page[2] == 0x90);
  memory.remove(child.at(2));
}

TEST_CASE("what is written over a breakpoint is there once that is gone") {
  const Child child;
  LiveMemory memory(Tid{child.pid});
  REQUIRE(memory.insert(child.at(1), {}));
  const std::array<std::byte, 3> written{std::byte{1}, std::byte{2}, std::byte{3}};
  REQUIRE(memory.write(child.at(0), written));
  CHECK(child.page[0] == 1);
  CHECK(child.page[1] == 0xcc);
  memory.remove_all();
  CHECK(child.page[1] == 2);
  CHECK(child.page[2] == 3);
}

TEST_CASE("what the program has put over a breakpoint stays as it is") {
  const Child child;
  LiveMemory memory(Tid{child.pid});
  REQUIRE(memory.insert(child.at(0), {}));
  child.page[0] = 0x55;
  memory.remove(child.at(0));
  CHECK(child.page[0] == 0x55);
}

TEST_CASE("where there is no memory, nothing is inserted, read or written") {
  const Child child;
  LiveMemory memory(Tid{child.pid});
  std::byte byte{};
  CHECK_FALSE(memory.insert(0x10, {}));
  CHECK_FALSE(memory.write(0x10, std::span(&byte, 1)));
  CHECK(memory.read(0x10, std::span(&byte, 1)) == 0);
}

}  // namespace
}  // namespace snapgdb::gdbstub
