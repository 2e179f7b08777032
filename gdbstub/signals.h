#pragma once

namespace snapgdb::gdbstub {

// The protocol numbers signals in its own way, the same on every system (gdb's
// include/gdb/signals.def). `linux_signal` 0 stays 0; what gdb has no number for becomes its
// "unknown signal".
int gdb_signal(int linux_signal);

}  // namespace snapgdb::gdbstub
