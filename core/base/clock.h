#pragma once

#include <time.h>

#include <cstdint>

namespace snapgdb {

inline uint64_t now_ns(clockid_t clock) {  // clock_gettime(2)
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

}  // namespace snapgdb
