#pragma once

#include <string>
#include <string_view>

#include "core/image/snapshot.h"

namespace snapgdb::gdbstub {

// Answers the user's `monitor LINE`: what gdb has no command of its own for.
std::string run_monitor(const Snapshot& snapshot, std::string_view line);

}  // namespace snapgdb::gdbstub
