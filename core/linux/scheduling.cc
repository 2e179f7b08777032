#include "core/linux/scheduling.h"

#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "core/linux/task.h"

namespace snapgdb {
namespace {

// Above every normal task; below the watchdogs and interrupt threads, which use 50 and 99.
constexpr sched_param kUrgent{.sched_priority = 10};

bool become_urgent(pid_t thread) {
  return ::sched_setscheduler(thread, SCHED_FIFO | SCHED_RESET_ON_FORK, &kUrgent) == 0;
}

}  // namespace

ScopedUrgency::ScopedUrgency() : policy_(::sched_getscheduler(0)) {
  changed_ = policy_ == SCHED_OTHER && become_urgent(0);
}

ScopedUrgency::~ScopedUrgency() {
  const sched_param parameters{};
  if (changed_) ::sched_setscheduler(0, policy_, &parameters);
}

// Nobody is kept from becoming modest; to come back takes what becoming urgent does.
ScopedModesty::ScopedModesty(int processor) : self_{static_cast<pid_t>(::syscall(SYS_gettid))} {
  CPU_ZERO(&before_);  // as it stays with more processors than fit: that is nowhere to go to
  ::sched_getaffinity(0, sizeof before_, &before_);
  cpu_set_t others = before_;
  CPU_CLR(static_cast<size_t>(processor), &others);
  if (CPU_COUNT(&others) > 0) ::sched_setaffinity(0, sizeof others, &others);
  const sched_param parameters{};
  changed_ = ::sched_getscheduler(0) == SCHED_OTHER && has_capability(CAP_SYS_NICE) &&
             ::sched_setscheduler(0, SCHED_IDLE, &parameters) == 0;
}

ScopedModesty::~ScopedModesty() {
  const sched_param parameters{};
  if (changed_) ::sched_setscheduler(0, SCHED_OTHER, &parameters);
  ::sched_setaffinity(0, sizeof before_, &before_);
}

void ScopedModesty::hurry() const {
  if (changed_) become_urgent(self_.value);
}

ScopedPinning::ScopedPinning() : processor_(::sched_getcpu()) {
  ::sched_getaffinity(0, sizeof before_, &before_);
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(processor_), &one);
  ::sched_setaffinity(0, sizeof one, &one);
}

ScopedPinning::~ScopedPinning() {
  ::sched_setaffinity(0, sizeof before_, &before_);
}

// To all that it may use at all: the kernel leaves out the others.
void ScopedPinning::release_this_thread() {
  cpu_set_t all;
  std::memset(&all, 0xff, sizeof all);
  ::sched_setaffinity(0, sizeof all, &all);
}

}  // namespace snapgdb
