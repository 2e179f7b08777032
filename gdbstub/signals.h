#pragma once

#include <optional>

namespace snapgdb::gdbstub {

// The protocol numbers signals in its own way, the same on every system (gdb's
// include/gdb/signals.def). `linux_signal` 0 stays 0; what gdb has no number for becomes its
// "unknown signal".
int gdb_signal(int linux_signal);

// The way back; nullopt: Linux has no such signal.
std::optional<int> linux_signal(int gdb_signal);

}  // namespace snapgdb::gdbstub
