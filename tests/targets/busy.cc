// Dirties random pages of --mib MiB (64) at --rate pages a second (20000, or "max"), and measures
// the longest gap between two readings of the clock: what a pause looks like from inside. At a rate
// it sleeps until the next page is due; at "max" it takes a whole processor; at 0 it sleeps for a
// millisecond between two readings. Of each word, --random-bits (64) are random and the others 0:
// fewer are the easier to compress. With --fickle, forks inherit them at one time and do not at
// another.
//
// Each line on standard input is answered by a line "gap_ns N pages N seconds N.NNN" for the time
// since the previous one, or since "ready"; the last such line comes at the end.

#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "target.h"

namespace {

constexpr size_t kWords = 4096 / 8;

std::atomic<bool> ending{false};
std::atomic<uint64_t> longest_gap{0};
std::atomic<uint64_t> dirtied{0};

// Random content, and in each page's first word how often it was dirtied.
class Pages {
 public:
  Pages(size_t bytes, unsigned random_bits)
      : count_(bytes / 4096), mask_(~uint64_t{0} >> (64 - random_bits)) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) target::cannot("mmap");
    words_ = static_cast<uint64_t*>(memory);
    for (size_t i = 0; i < count_ * kWords; ++i) words_[i] = content(i);
    for (size_t page = 0; page < count_; ++page) words_[page * kWords] = 0;
  }

  void dirty(uint64_t random) {
    ++words_[random % count_ * kWords];
    ++dirtied;
    ++total_;
  }

  void inherit(bool wanted) const {
    target::expect_call("madvise", madvise(words_, count_ * kWords * sizeof *words_,
                                           wanted ? MADV_DOFORK : MADV_DONTFORK));
  }

  void check() const {
    uint64_t sum = 0;
    for (size_t i = 0; i < count_ * kWords; ++i) {
      if (i % kWords == 0) {
        sum += words_[i];
      } else if (words_[i] != content(i)) {
        target::differs("word %zu has changed", i);
        break;
      }
    }
    target::expect_equal("the pages' counters", sum, total_);
  }

 private:
  uint64_t content(size_t i) const { return target::mix(i) & mask_; }

  size_t count_;
  uint64_t mask_;
  uint64_t* words_;
  uint64_t total_ = 0;
};

void note_gap(uint64_t& last) {
  const uint64_t now = target::now_ns();
  longest_gap = std::max<uint64_t>(longest_gap, now - last);
  last = now;
}

void dirty_without_pause(Pages& pages) {
  uint64_t last = target::now_ns();
  for (uint64_t i = 0; !ending; ++i) {
    pages.dirty(target::mix(i));
    note_gap(last);
  }
}

void dirty_at_rate(Pages& pages, uint64_t pages_a_second) {
  constexpr uint64_t kSecond = 1'000'000'000, kMostToCatchUp = 1'000'000;
  prctl(PR_SET_TIMERSLACK, 1);
  uint64_t last = target::now_ns();
  uint64_t due = last;
  for (uint64_t i = 0; !ending; ++i) {
    pages.dirty(target::mix(i));
    note_gap(last);
    due = std::max(due + kSecond / pages_a_second, last - kMostToCatchUp);
    const timespec until{static_cast<time_t>(due / kSecond), static_cast<long>(due % kSecond)};
    if (due > last) clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
    note_gap(last);
  }
}

void sleep_until_end() {
  for (uint64_t last = target::now_ns(); !ending;) {
    usleep(1000);
    note_gap(last);
  }
}

void report(uint64_t& since) {
  const uint64_t now = target::now_ns();
  target::say("gap_ns %lu pages %lu seconds %.3f", longest_gap.exchange(0), dirtied.exchange(0),
              (now - since) / 1e9);
  since = now;
}

// Returns at the end of standard input.
void answer_requests(uint64_t& since) {
  char byte;
  while (read(STDIN_FILENO, &byte, 1) == 1) {
    if (byte == '\n') report(since);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const size_t bytes = strtoull(target::option(argc, argv, "--mib", "64"), nullptr, 10) << 20;
  const char* rate = target::option(argc, argv, "--rate", "20000");
  const bool at_most = strcmp(rate, "max") == 0;
  const uint64_t pages_a_second = strtoull(rate, nullptr, 10);

  struct sigaction action {};  // without SA_RESTART, so that SIGTERM ends the read
  action.sa_handler = [](int) {};
  target::setup("sigaction", sigaction(SIGTERM, &action, nullptr));
  const auto random_bits =
      static_cast<unsigned>(atoi(target::option(argc, argv, "--random-bits", "64")));
  Pages pages(bytes, random_bits);
  target::Thread thread("dirtying", [&] {
    if (at_most) return dirty_without_pause(pages);
    pages_a_second ? dirty_at_rate(pages, pages_a_second) : sleep_until_end();
  });
  const bool is_fickle = target::has_flag(argc, argv, "--fickle");
  target::Thread advising("advising", [&] {
    for (bool wanted = false; is_fickle && !ending; wanted = !wanted) {
      pages.inherit(wanted);
      usleep(2000);
    }
  });
  uint64_t since = target::now_ns();
  longest_gap = dirtied = 0;
  target::ready();
  answer_requests(since);

  ending = true;
  thread.join();
  advising.join();
  report(since);
  pages.check();
  return target::verdict();
}
