#include "core/resource/questions.h"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

using namespace snapgdb;

namespace {

constexpr uint32_t kSpace = 1, kAnother = 2;
constexpr uint64_t kLow = 0x100000;
constexpr size_t kScratch = 4096;

Detour::Place place_of(uint64_t size) {
  return {.gadgets = {}, .low = kLow, .high = kLow + size};
}

class Noted : public Question {
 public:
  Noted(std::vector<std::string>& log, std::string name, bool is_back = true)
      : log_(log), name_(std::move(name)), is_back_(is_back) {}
  bool proceed() override { return is_back_; }
  void finish() override { log_.push_back(name_); }

 private:
  std::vector<std::string>& log_;
  std::string name_;
  bool is_back_;
};

bool overlap(const Detour::Place& a, const Detour::Place& b) {
  return a.low < b.high && b.low < a.high;
}

}  // namespace

TEST_CASE("tasks that are asked at once in one address space do so in different places") {
  Questions questions;
  std::vector<std::string> log;
  std::vector<Detour::Place> rooms;
  for (int i = 0; i < 4; ++i) {
    rooms.push_back(questions.room(kSpace, place_of(128 * 1024), kScratch));
    questions.add(kSpace, rooms.back(), std::make_unique<Noted>(log, std::to_string(i)));
    CHECK(rooms.back().has_room_for(kScratch));
    CHECK(rooms.back().low >= kLow);
    for (int other = 0; other < i; ++other) CHECK_FALSE(overlap(rooms[other], rooms[i]));
  }
  CHECK(log.empty());
  questions.finish(kSpace);
  CHECK(log == std::vector<std::string>{"0", "1", "2", "3"});
}

TEST_CASE("where there is no room for one more, the first one is waited for") {
  Questions questions;
  std::vector<std::string> log;
  for (int i = 0; i < 3; ++i) {
    const auto room = questions.room(kSpace, place_of(70 * 1024), kScratch);
    questions.add(kSpace, room, std::make_unique<Noted>(log, std::to_string(i)));
  }
  CHECK(log == std::vector<std::string>{"0"});
  const auto all = questions.room(kSpace, place_of(70 * 1024), 50 * 1024);  // needs all of it
  CHECK(log == std::vector<std::string>{"0", "1", "2"});
  CHECK(all.has_room_for(50 * 1024));
  questions.add(kSpace, all, std::make_unique<Noted>(log, "large"));
  questions.room(kSpace, place_of(70 * 1024), kScratch);
  CHECK(log.back() == "large");
}

TEST_CASE("other address spaces are not waited for") {
  Questions questions;
  std::vector<std::string> log;
  const auto add = [&](uint32_t space, const char* name, bool is_back) {
    const auto room = questions.room(space, place_of(40 * 1024), kScratch);
    questions.add(space, room, std::make_unique<Noted>(log, name, is_back));
  };
  add(kSpace, "one", true);
  add(kAnother, "another", false);
  CHECK(log.empty());
  CHECK(questions.are_over(kSpace));
  CHECK_FALSE(questions.are_over(kAnother));
  questions.finish(kAnother);
  CHECK(log == std::vector<std::string>{"another"});
  CHECK(questions.are_over(kAnother));
}
