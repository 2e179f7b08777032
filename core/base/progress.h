#pragma once

#include <atomic>
#include <cstdint>

namespace snapgdb {

// How far long work is, in bytes: counted by whoever does it, by several threads if need be, and
// looked at by whoever waits for it (a terminal, a window). Neither waits for the other.
class Progress {
 public:
  // More is to be done than was known before.
  void expect(uint64_t bytes) { total_ += bytes; }
  void add(uint64_t bytes) { done_ += bytes; }

  uint64_t done() const { return done_; }
  uint64_t total() const { return total_; }

 private:
  std::atomic<uint64_t> done_ = 0, total_ = 0;
};

// Where nobody may be looking: nullptr.
inline void count_expected(Progress* progress, uint64_t bytes) {
  if (progress) progress->expect(bytes);
}
inline void count_done(Progress* progress, uint64_t bytes) {
  if (progress) progress->add(bytes);
}

}  // namespace snapgdb
