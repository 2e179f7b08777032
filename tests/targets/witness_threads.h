#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "target.h"

// Threads at known places, with known values in their registers, frames and thread-locals.
namespace witness {

enum class Kind {
  kSpin,       // every register known, in an endless loop
  kPause,      // the same inside a system call
  kDeep,       // a long call chain: recursion, a shared library, an inlined function
  kHandler,    // inside a signal handler on an alternate stack
  kCondition,  // in pthread_cond_wait
  kTiles,      // AMX tiles known (where the CPU has them), inside pause(2)
};

class Threads {
 public:
  // Returns once every thread is where it stays.
  Threads(const std::vector<Kind>& kinds, uint64_t role);
  ~Threads();
  // Lets them go; each checks itself.
  void finish();

 private:
  std::vector<target::Thread> threads_;
  std::vector<bool> pauses_;  // of each: whether it is in pause(2)
};

}  // namespace witness
