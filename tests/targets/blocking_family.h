#pragma once

#include <time.h>

#include <algorithm>
#include <span>

#include "blocking.h"

// The blocking calls in families: what the calls of one wait on stands in its own file.
namespace target {

struct BlockingFamily {
  std::span<const BlockingCall> timed, endless;  // every endless one has its own to wait on
  void (*prepare)();
  void (*end)() = nullptr;
};
extern const BlockingFamily kSignalCalls, kFutexCalls, kPollCalls, kFileCalls, kSocketCalls,
    kQueueCalls;

// ---- Time limits -----------------------------------------------------------------------------

inline timespec as_timespec(uint64_t ns) {
  return {static_cast<time_t>(ns / 1000000000), static_cast<long>(ns % 1000000000)};
}

// Never zero, which to some means no limit.
inline timeval as_timeval(uint64_t ns) {
  const uint64_t us = std::max<uint64_t>(ns / 1000, 1);
  return {static_cast<time_t>(us / 1000000), static_cast<long>(us % 1000000)};
}

inline timespec from_now(clockid_t clock, uint64_t ns) {
  timespec now;
  clock_gettime(clock, &now);
  return as_timespec(static_cast<uint64_t>(now.tv_sec) * 1000000000 + now.tv_nsec + ns);
}

// For the calls that take a relative timespec. It must be writable: some leave in it what is left.
template <typename Call>
long with_limit(uint64_t ns, Call call) {
  timespec limit = as_timespec(ns);
  return call(&limit);
}

template <typename Call>
long until(clockid_t clock, uint64_t ns, Call call) {
  const timespec limit = from_now(clock, ns);
  return call(&limit);
}

}  // namespace target
