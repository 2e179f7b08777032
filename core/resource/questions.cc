#include "core/resource/questions.h"

#include <algorithm>

namespace snapgdb {
namespace {

// Of a thread's memory: the way home, and what is asked. More at once would gain nothing.
constexpr uint64_t kPart = 32 * 1024, kMostParts = 8;

}  // namespace

Detour::Place Questions::room(uint32_t space, Detour::Place place, size_t scratch) {
  std::deque<UnderWay>& others = under_way_[space];
  const auto is_free = [&others](uint64_t low, uint64_t high) {
    return std::ranges::none_of(
        others, [=](const UnderWay& one) { return one.low < high && low < one.high; });
  };
  const bool fits = scratch + Detour::kHomeSize <= kPart && place.high - place.low >= kPart;
  const uint64_t size = fits ? kPart : place.high - place.low;
  const uint64_t parts = std::min(kMostParts, (place.high - place.low) / size);
  for (;; finish_first(others))
    for (uint64_t part = 0; part < parts; ++part)
      if (const uint64_t high = place.high - part * size; is_free(high - size, high)) {
        place.low = high - size;
        place.high = high;
        return place;
      }
}

void Questions::add(uint32_t space, const Detour::Place& room, std::unique_ptr<Question> question) {
  under_way_[space].push_back({room.low, room.high, std::move(question)});
}

bool Questions::are_over(uint32_t space) {
  const auto found = under_way_.find(space);
  if (found == under_way_.end()) return true;
  bool all = true;
  for (const UnderWay& one : found->second) all &= one.question->proceed();
  return all;
}

void Questions::finish(uint32_t space) {
  const auto found = under_way_.find(space);
  if (found == under_way_.end()) return;
  while (!found->second.empty()) finish_first(found->second);
  under_way_.erase(found);
}

void Questions::finish_first(std::deque<UnderWay>& under_way) {
  under_way.front().question->finish();
  under_way.pop_front();
}

}  // namespace snapgdb
