#pragma once

#include <string>
#include <string_view>

#include "gdbstub/session_state.h"

namespace snapgdb::gdbstub {

// A command of the user for the stub; returns what is shown of it. What cannot be done is text too:
// an error reply would carry none.
std::string run_monitor(SessionState& state, std::string_view line);

using MonitorHandler = std::string(SessionState& state, std::string_view argument);

// monitor_running.cc
MonitorHandler restart, go_to_snapshot, list_snapshots, list_to_attach_again;
MonitorHandler choose_diversion, choose_on_detach, give_input, list_notes;

}  // namespace snapgdb::gdbstub
