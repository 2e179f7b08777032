#pragma once

#include <span>

#include "target.h"

// The ways to sleep in a system call, and what a stop may do to each.
namespace target {

// What SIGSTOP and SIGCONT do to a call although no handler runs (signal(7), "Interruption of
// system calls and library functions by stop signals"). Stopping by a tracer does the same.
enum class AfterStop {
  kGoesOn,        // a time limit stays where it was
  kGoesOnLonger,  // with the time that was left: the stop comes on top
  kFails,         // with EINTR
};

struct Outcome {
  long result = 0;
  int error = 0;
  bool operator==(const Outcome&) const = default;
};

struct BlockingCall {
  const char* name;
  long system_call;  // SYS_*
  AfterStop after_stop;
  Outcome expected;
  long (*call)(uint64_t ns);                 // for so long, or without limit until released
  void (*release)(const Thread&) = nullptr;  // ends one without limit
};

void prepare_blocking();  // in the process whose threads will make the calls
std::span<const BlockingCall> timed_calls();
std::span<const BlockingCall> endless_calls();
void end_blocking();  // once all have returned

// The kernel counts some limits in ticks, of which the first may be nearly over.
constexpr uint64_t kTickNs = 10'000'000;

Outcome outcome_of(const BlockingCall& call, uint64_t ns);

// Threads in all of them at once, each of which checks what its call returned and how long it took,
// again and again where there is a time limit.
class BlockedThreads {
 public:
  // Each call is of `round_ns`, and at most `late_ns` may be added to that.
  BlockedThreads(uint64_t round_ns, uint64_t late_ns);
  ~BlockedThreads();
  std::span<const Thread> threads() const { return threads_; }
  void finish();

 private:
  std::vector<Thread> threads_;
};

}  // namespace target
