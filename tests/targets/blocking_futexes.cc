// Waiting for memory to change: futexes, and the locks that are made of them.

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "blocking_family.h"

namespace target {
namespace {

using enum AfterStop;

const uint32_t kZeroWord = 0;
uint32_t priority_word;  // a priority-inheriting futex that the main thread holds
pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
bool woken;
pthread_mutex_t priority_mutex;

const BlockingCall kTimed[] = {
    {"futex relative",
     SYS_futex,
     kGoesOn,
     {-1, ETIMEDOUT},
     [](uint64_t ns) {
       return with_limit(ns, [](timespec* t) {
         return syscall(SYS_futex, &kZeroWord, FUTEX_WAIT_PRIVATE, 0, t);
       });
     }},
    {"futex absolute",
     SYS_futex,
     kGoesOn,
     {-1, ETIMEDOUT},
     [](uint64_t ns) {
       return until(CLOCK_MONOTONIC, ns, [](const timespec* t) {
         return syscall(SYS_futex, &kZeroWord, FUTEX_WAIT_BITSET_PRIVATE, 0, t, nullptr,
                        FUTEX_BITSET_MATCH_ANY);
       });
     }},
    {"futex PI",
     SYS_futex,
     kGoesOn,
     {-1, ETIMEDOUT},
     [](uint64_t ns) {
       return until(CLOCK_MONOTONIC, ns, [](const timespec* t) {
         return syscall(SYS_futex, &priority_word, FUTEX_LOCK_PI2_PRIVATE, 0, t);
       });
     }},
};

// With a limit on the real-time clock, an hour away: the fourth way the kernel keeps a time limit.
long wait_on_condition(uint64_t) {
  const timespec limit{time(nullptr) + 3600, 0};
  int error = 0;
  pthread_mutex_lock(&mutex);
  while (!woken && !error) error = pthread_cond_timedwait(&condition, &mutex, &limit);
  pthread_mutex_unlock(&mutex);
  return error;
}

void wake_condition(const Thread&) {
  pthread_mutex_lock(&mutex);
  woken = true;
  pthread_cond_broadcast(&condition);
  pthread_mutex_unlock(&mutex);
}

long take_priority_mutex(uint64_t) {
  const int error = pthread_mutex_lock(&priority_mutex);
  return error ? error : pthread_mutex_unlock(&priority_mutex);
}

const BlockingCall kEndless[] = {
    {"condition", SYS_futex, kGoesOn, {}, wait_on_condition, wake_condition},
    {"PI mutex",
     SYS_futex,
     kGoesOn,
     {},
     take_priority_mutex,
     [](const Thread&) { pthread_mutex_unlock(&priority_mutex); }},
};

void prepare() {
  priority_word = static_cast<uint32_t>(thread_id());
  pthread_mutexattr_t inherit;
  pthread_mutexattr_init(&inherit);
  pthread_mutexattr_setprotocol(&inherit, PTHREAD_PRIO_INHERIT);
  pthread_mutex_init(&priority_mutex, &inherit);
  pthread_mutex_lock(&priority_mutex);
}

}  // namespace

const BlockingFamily kFutexCalls{kTimed, kEndless, prepare};

}  // namespace target
