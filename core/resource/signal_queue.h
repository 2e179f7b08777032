#pragma once

#include <string>
#include <vector>

#include "core/image/snapshot.h"
#include "core/linux/seed.h"

namespace snapgdb {

// As the image has it; what it lacks is 0.
siginfo_t siginfo_in(const std::string& bytes);

// Signals that wait for a process, or for one thread of it, to be queued by a task of it: most with
// queue(), and those by queue_last() that would be in the way of a seed's traps.
struct SignalQueue {
  std::vector<std::string> infos;  // siginfo_t
  long number;                     // of the system call
  SystemCallArguments before;      // its arguments up to the signal
  size_t known;                    // how many these are

  void queue(Seed& seed) const;
  // Nothing but such calls may follow (Seed::call_silently()).
  void queue_last(Seed& seed) const;

 private:
  SystemCallArguments arguments(const std::string& info, Seed& seed) const;
};

SignalQueue queue_of(const pb::Process& process);
// A signal that was being delivered comes first again.
SignalQueue queue_of(const pb::Process& process, const pb::Thread& thread);

// Where more are pending than the limit allows by now, it is set when all are queued. Returns why
// it is another one, or "".
std::string limit_pending_signals(const pb::Process& process, Tid tid);

}  // namespace snapgdb
