#include "gdbstub/neighbour.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

namespace snapgdb::gdbstub {
namespace {

// Where a thread may run.
int processors(pid_t thread) {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(thread, sizeof set, &set);
  return CPU_COUNT(&set);
}

}  // namespace

TEST_CASE("a stub waits on its client's processor, and may run anywhere afterwards") {
  std::array<int, 2> ends;
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) == 0);
  const Fd ours(ends[0]), theirs(ends[1]);
  const int before = processors(0);
  std::atomic<pid_t> reader{0};
  std::atomic<int> afterwards{0};
  char byte = 0;
  std::thread waiting([&] {
    Neighbour client(ours.get());
    reader = gettid();
    CHECK(client.read(ours.get(), std::span(&byte, 1)) == 1);
    afterwards = processors(0);
  });
  while (reader == 0) usleep(1000);
  for (int i = 0; i < 10000 && processors(reader) != 1; ++i) usleep(1000);
  CHECK(processors(reader) == 1);
  CHECK(write(theirs.get(), "x", 1) == 1);
  waiting.join();
  CHECK(byte == 'x');
  CHECK(afterwards == before);
}

TEST_CASE("a client that is no process of this machine is read from all the same") {
  std::array<int, 2> ends;
  REQUIRE(pipe(ends.data()) == 0);
  const Fd ours(ends[0]), theirs(ends[1]);
  CHECK(write(theirs.get(), "ab", 2) == 2);
  std::array<char, 8> bytes;
  CHECK(Neighbour(ours.get()).read(ours.get(), bytes) == 2);
}

}  // namespace snapgdb::gdbstub
