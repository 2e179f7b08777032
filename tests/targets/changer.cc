// Holds --mib MiB (64) of random pages, in areas of equal size, and --children (0) that it forked
// after that, each of which has changed some of its pages. At the end every process changes its
// mappings in all the ways there are, and forks, before it looks at what it holds: as it would be
// if its pages came only when they are touched.

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "target.h"

namespace {

constexpr size_t kPage = 4096, kPageWords = kPage / 8;
constexpr size_t kAreas = 8;
constexpr unsigned kChangedByChildren = 16;  // every so many-th page

struct Area {
  uint64_t* words;
  size_t pages;
  uint64_t seed;
};

void* map(size_t size) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) target::cannot("mmap");
  return memory;
}

void fill_page(uint64_t* words, uint64_t seed) {
  for (size_t i = 0; i < kPageWords; ++i) words[i] = target::mix(seed + i);
}

class Memory {
 public:
  explicit Memory(size_t bytes) {
    const size_t pages = bytes / kPage / kAreas;
    for (size_t i = 0; i < kAreas; ++i) {
      // A gap after each, so that they stay mappings of their own.
      Area area{static_cast<uint64_t*>(map((pages + 1) * kPage)), pages, i << 40};
      munmap(area.words + pages * kPageWords, kPage);
      for (size_t page = 0; page < pages; ++page) fill_page(at(area, page), seed_of(area, page));
      areas_.push_back(area);
    }
  }

  // In a child: some pages are its own, some zeros; its heap is larger, and an area is read-only.
  void change(unsigned child) {
    child_ = child;
    const size_t pages = 64;
    areas_.push_back({static_cast<uint64_t*>(sbrk(pages * kPage)), pages, kAreas << 40});
    Area& heap = areas_.back();
    heap.words = reinterpret_cast<uint64_t*>((reinterpret_cast<uintptr_t>(heap.words) + kPage - 1) &
                                             ~(kPage - 1));
    --heap.pages;
    for (size_t page = 0; page < heap.pages; ++page) fill_page(at(heap, page), seed_of(heap, page));
    for (const Area& area : areas_)
      for (size_t page = 0; page < area.pages; page += kChangedByChildren) {
        fill_page(at(area, page), seed_of(area, page));
        if (page + 1 < area.pages) madvise(at(area, page + 1), kPage, MADV_DONTNEED);
      }
    const Area& last = areas_[kAreas - 1];
    target::setup("mprotect", mprotect(last.words, last.pages * kPage, PROT_READ));
  }

  void check(const Area& area, size_t first, size_t end) const {
    for (size_t page = first; page < end; ++page) {
      const bool zero = child_ && page % kChangedByChildren == 1;
      const uint64_t* words = at(area, page);
      for (size_t i = 0; i < kPageWords; ++i)
        if (words[i] != (zero ? 0 : target::mix(seed_of(area, page) + i))) {
          target::differs("word %zu of page %zu of area %zu of child %u has changed", i, page,
                          static_cast<size_t>(area.seed >> 40), child_);
          return;
        }
    }
  }
  void check() const {
    for (const Area& area : areas_) check(area, 0, area.pages);
  }

  void move(Area& area) const {
    void* there = map(area.pages * kPage);
    if (mremap(area.words, area.pages * kPage, area.pages * kPage, MREMAP_MAYMOVE | MREMAP_FIXED,
               there) == MAP_FAILED)
      target::cannot("mremap");
    area.words = static_cast<uint64_t*>(there);
  }

  // Every change that a mapping can go through, each on an area of its own.
  void rearrange() {
    move(areas_[0]);
    check(areas_[0], 0, areas_[0].pages);

    Area& grown = areas_[1];
    void* larger =
        mremap(grown.words, grown.pages * kPage, 2 * grown.pages * kPage, MREMAP_MAYMOVE);
    if (larger == MAP_FAILED) target::cannot("mremap");
    grown.words = static_cast<uint64_t*>(larger);
    check(grown, 0, grown.pages);
    target::expect_equal("new memory", grown.words[(2 * grown.pages - 1) * kPageWords], 0);

    Area& dropped = areas_[2];
    const size_t half = dropped.pages / 2;
    target::setup("madvise", madvise(at(dropped, half), half * kPage, MADV_DONTNEED));
    for (size_t page = half; page < 2 * half; ++page)
      target::expect_equal("dropped memory", *at(dropped, page), 0);
    check(dropped, 0, half);
    dropped.pages = half;

    Area& holed = areas_[3];
    const size_t third = holed.pages / 3;
    target::setup("munmap", munmap(at(holed, third), third * kPage));
    check(holed, 0, third);
    check(holed, 2 * third, holed.pages);
    holed.pages = third;

    Area& split = areas_[4];
    for (size_t page = 1; page < split.pages; page += 7)
      target::setup("mprotect", mprotect(at(split, page), kPage, PROT_READ));
    check(split, 0, split.pages);
  }

  // The kernel itself touches pages, in system calls.
  void check_through_the_kernel() const {
    const Area& area = areas_[5];
    int ends[2];
    target::setup("pipe", pipe(ends));
    uint64_t words[kPageWords];
    for (size_t page = 0; page < area.pages; page += 5) {
      target::expect_equal("write", write(ends[1], at(area, page), kPage), kPage);
      target::expect_equal("read", read(ends[0], words, kPage), kPage);
      target::expect_equal("a page written", memcmp(words, at(area, page), kPage), 0);
    }
    check(area, 0, area.pages);
  }

 private:
  static uint64_t* at(const Area& area, size_t page) { return area.words + page * kPageWords; }
  uint64_t seed_of(const Area& area, size_t page) const {
    const bool own = child_ && page % kChangedByChildren == 0;
    return area.seed + page * kPageWords + (own ? uint64_t{child_} << 56 : 0);
  }

  std::vector<Area> areas_;
  unsigned child_ = 0;
};

// A child has what its parent had at that moment, whatever becomes of the parent's pages.
void check_in_children(Memory& memory) {
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i) {
    const pid_t child = target::setup("fork", fork());
    if (child == 0) {
      const pid_t grandchild = target::setup("fork", fork());
      if (i == 1) memory.rearrange();
      memory.check_through_the_kernel();
      if (i != 1) memory.check();
      if (grandchild != 0) target::expect_success_of(grandchild);
      _exit(target::verdict());
    }
    children.push_back(child);
    if (i == 1) memory.rearrange();
  }
  for (const pid_t child : children) target::expect_success_of(child);
}

int check_all(Memory& memory) {
  memory.check_through_the_kernel();
  check_in_children(memory);
  return target::verdict();
}

}  // namespace

int main(int argc, char** argv) {
  target::prepare_end();
  Memory memory((strtoull(target::option(argc, argv, "--mib", "64"), nullptr, 10)) << 20);
  const unsigned children =
      static_cast<unsigned>(atoi(target::option(argc, argv, "--children", "0")));
  target::Family family;
  std::vector<pid_t> pids;
  for (unsigned i = 1; i <= children; ++i) {
    const pid_t child = family.fork_child();
    if (child == 0) {
      memory.change(i);
      family.announce_ready();
      family.wait_for_end_of_family();
      _exit(check_all(memory));
    }
    pids.push_back(child);
  }
  family.wait_for_announcements(static_cast<int>(children));
  target::ready();
  target::wait_for_end();
  family.end();
  const int verdict = check_all(memory);
  for (const pid_t child : pids) target::expect_success_of(child);
  return verdict | target::verdict();
}
