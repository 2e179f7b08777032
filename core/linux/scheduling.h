// Where and when threads of ours run, beside a tree and while it is stopped.
#pragma once

#include <sched.h>

#include "core/base/ids.h"

namespace snapgdb {

// Keeps this thread, and whom it starts, on the processor that it is on. Tracer and tracee take
// turns four times faster on one processor than on two.
class ScopedPinning {
 public:
  ScopedPinning();
  ~ScopedPinning();
  ScopedPinning(const ScopedPinning&) = delete;
  ScopedPinning& operator=(const ScopedPinning&) = delete;
  int processor() const { return processor_; }
  // For a thread that was started meanwhile and has work of its own.
  static void release_this_thread();

 private:
  cpu_set_t before_;
  int processor_;
};

// Raises this thread's priority for as long as it lives, as far as the rights at hand allow:
// against many busy threads, stopping them all takes seconds at normal priority.
class ScopedUrgency {
 public:
  ScopedUrgency();
  ~ScopedUrgency();
  ScopedUrgency(const ScopedUrgency&) = delete;
  ScopedUrgency& operator=(const ScopedUrgency&) = delete;

 private:
  int policy_ = 0;
  bool changed_ = false;
};

// This thread runs where and when nobody else wants to, as far as it may come back from that: a
// task that wakes up on its processor has it at once (SCHED_IDLE, sched(7)).
class ScopedModesty {
 public:
  // It keeps off `processor`, if there is another one: the scheduler does not move those that are
  // modest, and would leave it there while others have nothing to do.
  explicit ScopedModesty(int processor);
  ~ScopedModesty();
  ScopedModesty(const ScopedModesty&) = delete;
  ScopedModesty& operator=(const ScopedModesty&) = delete;
  // By another thread: it is waited for, so its modesty ends here, and it is urgent.
  void hurry() const;

 private:
  Tid self_;
  bool changed_ = false;
  cpu_set_t before_;
};

}  // namespace snapgdb
