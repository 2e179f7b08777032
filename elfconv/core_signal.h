#pragma once

#include <string_view>

#include "core/image/snapshot.h"

namespace snapgdb {

// The signal a core names as the reason why a thread is where it is.
struct ThreadSignal {
  int number = 0;            // 0: none
  std::string_view siginfo;  // siginfo_t, 128 bytes, or empty: there is none
};

// The signal being delivered; else one that is pending and about to end the process. Signals
// pending for the process as a whole count only `with_process`. A stop by job control is none: of
// any signal in a core, gdb says that the program terminated with it.
ThreadSignal signal_of(const pb::Process& process, const pb::Thread& thread, bool with_process);

}  // namespace snapgdb
