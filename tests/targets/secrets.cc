// A page for everybody, one that stays out of dumps unless they are told otherwise, and one that
// not even the kernel can read. Their contents are computed, so that they are nowhere else.

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "target.h"

namespace {

constexpr size_t kPage = 4096, kWords = kPage / 8;

struct Page {
  const char* name;
  uint64_t* words;
  uint64_t seed;
};

uint64_t* map(int flags, int fd) {
  void* memory = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (memory == MAP_FAILED) target::cannot("mmap");
  return static_cast<uint64_t*>(memory);
}

uint64_t* map_out_of_dumps() {
  uint64_t* words = map(MAP_PRIVATE | MAP_ANONYMOUS, -1);
  target::setup("MADV_DONTDUMP", madvise(words, kPage, MADV_DONTDUMP));
  return words;
}

// nullptr where the kernel has no such memory.
uint64_t* map_secret() {
  const int fd = static_cast<int>(syscall(SYS_memfd_secret, 0));
  if (fd < 0) return nullptr;
  target::setup("ftruncate", ftruncate(fd, kPage));
  return map(MAP_SHARED, fd);
}

void fill(const Page& page) {
  for (size_t i = 0; i < kWords; ++i) page.words[i] = target::mix(page.seed + i);
  target::say("page %s %zu", page.name, page.seed);
}

void check(const Page& page) {
  for (size_t i = 0; i < kWords; ++i) {
    target::expect_equal(page.name, page.words[i], target::mix(page.seed + i));
  }
}

}  // namespace

int main() {
  target::prepare_end();
  const uint64_t seed = target::now_ns();
  const Page pages[] = {{"plain", map(MAP_PRIVATE | MAP_ANONYMOUS, -1), seed},
                        {"out-of-dumps", map_out_of_dumps(), seed + 1000},
                        {"secret", map_secret(), seed + 2000}};
  for (const Page& page : pages) {
    if (page.words) fill(page);
  }
  target::watch_for_sigchld(false);
  target::OwnState state;
  state.remember();
  target::ready();
  target::wait_for_end();

  state.compare();
  for (const Page& page : pages) {
    if (page.words) check(page);
  }
  return target::verdict();
}
