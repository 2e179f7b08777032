// Maps memory, fills it and unmaps it again all the time, at the same addresses: what was there a
// moment ago is not what is there now. With --move it is moved, too.

#include <sys/mman.h>

#include "target.h"

namespace {

constexpr size_t kSize = size_t{4} << 20, kWords = kSize / 8, kKept = 9;
constexpr size_t kStep = 64;  // words

std::atomic<bool> ending{false};

// An area with its own pattern.
struct Area {
  uint64_t* words = nullptr;
  uint64_t seed = 0;
};

uint64_t* map() {
  void* memory = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) target::cannot("mmap");
  return static_cast<uint64_t*>(memory);
}

void fill(Area& area, uint64_t seed) {
  area.seed = seed;
  for (size_t i = 0; i < kWords; i += kStep) area.words[i] = target::mix(seed + i);
}

void check(const Area& area) {
  for (size_t i = 0; i < kWords; i += kStep) {
    if (area.words[i] == target::mix(area.seed + i)) continue;
    target::differs("word %zu of an area has changed", i);
    return;
  }
}

// Over a new area, which is gone by that.
void move(Area& area) {
  uint64_t* there = map();
  target::setup("mremap",
                mremap(area.words, kSize, kSize, MREMAP_MAYMOVE | MREMAP_FIXED, there) == MAP_FAILED
                    ? -1
                    : 0);
  area.words = there;
}

void keep_mapping(bool moving) {
  Area kept[kKept];
  for (uint64_t round = 0; !ending || round < kKept; ++round) {
    Area& area = kept[round % kKept];
    if (area.words) {
      check(area);
      munmap(area.words, kSize);
    }
    area.words = map();
    fill(area, round * kWords);
    if (moving && round % 3 == 0) move(area);
  }
  for (const Area& area : kept) check(area);
}

}  // namespace

int main(int argc, char** argv) {
  target::prepare_end();
  const bool moving = target::has_flag(argc, argv, "--move");
  target::Thread mapper("mapper", [moving] { keep_mapping(moving); });
  target::ready();
  target::wait_for_end();
  ending = true;
  mapper.join();
  return target::verdict();
}
