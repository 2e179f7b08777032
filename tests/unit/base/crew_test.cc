#include "core/base/crew.h"

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

using namespace snapgdb;

TEST_CASE("a crew works beside its caller, round after round") {
  Crew crew(3);
  for (int round = 0; round < 100; ++round) {
    std::atomic<int> next = 0;
    std::array<std::atomic<int>, 50> done{};
    crew.run([&] {
      for (int i = next++; i < std::ssize(done); i = next++) ++done[static_cast<size_t>(i)];
    });
    for (const auto& times : done) CHECK(times == 1);
  }
}

TEST_CASE("a crew does its part and its caller another") {
  Crew crew(1);
  const auto caller = std::this_thread::get_id();
  std::mutex mutex;
  std::set<std::thread::id> theirs, own;
  const auto note = [&](std::set<std::thread::id>& threads) {
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  };
  crew.run([&] { note(theirs); }, [&] { note(own); });
  CHECK(own == std::set{caller});
  CHECK_FALSE(theirs.contains(caller));
}

TEST_CASE("what one of a crew throws is thrown once all are done, and the crew goes on") {
  Crew crew(3);
  std::atomic<bool> is_done = false;
  const auto fails = [] { throw std::runtime_error("it fails"); };
  const auto works = [&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    is_done = true;
  };
  CHECK_THROWS_WITH(crew.run(works, fails), "it fails");
  if (std::thread::hardware_concurrency() > 1) {
    CHECK(is_done);
    CHECK_THROWS_WITH(crew.run(fails, works), "it fails");
  }
  CHECK_NOTHROW(crew.run(works));
}
