#include "core/base/crew.h"

#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace snapgdb {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kAtHand = size_t{4} << 20;  // bytes for each thread

// Allocated memory comes from the heap of the thread (malloc(3): arenas), whose end stays where it
// was once.
void have_memory_at_hand() {
  auto* memory = static_cast<volatile char*>(std::malloc(kAtHand));
  for (size_t i = 0; memory && i < kAtHand; i += kPage) memory[i] = 0;
  std::free(const_cast<char*>(memory));
}

}  // namespace

Crew::Crew(size_t others) {
  ::mallopt(M_MMAP_THRESHOLD, 2 * kAtHand);
  ::mallopt(M_TRIM_THRESHOLD, 4 * kAtHand);
  have_memory_at_hand();
  const size_t count =
      std::min<size_t>(others, std::max(1u, std::thread::hardware_concurrency()) - 1);
  busy_ = count;
  for (size_t i = 0; i < count; ++i)
    threads_.emplace_back([this](std::stop_token stop) { work(stop); });
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return busy_ == 0; });
}

Crew::~Crew() = default;

void Crew::work(std::stop_token stop) {
  have_memory_at_hand();
  std::unique_lock lock(mutex_);
  for (uint64_t seen = 0;; seen = round_) {
    if (--busy_ == 0) done_.notify_one();
    if (!begin_.wait(lock, stop, [&] { return round_ != seen; })) return;
    const auto* const work = work_;
    lock.unlock();
    try {
      (*work)();
    } catch (...) {
      note_failure();
    }
    lock.lock();
  }
}

void Crew::note_failure() {
  const std::lock_guard lock(mutex_);
  if (!failure_) failure_ = std::current_exception();
}

void Crew::run(const std::function<void()>& theirs, const std::function<void()>& own) {
  {
    const std::lock_guard lock(mutex_);
    work_ = &theirs;
    busy_ = threads_.size();
    ++round_;
  }
  begin_.notify_all();
  try {
    own();
  } catch (...) {
    note_failure();
  }
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return busy_ == 0; });
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

}  // namespace snapgdb
