#pragma once

#include <string>
#include <string_view>

#include "gdbstub/session_state.h"

namespace snapgdb::gdbstub {

// How the protocol tells of an event: "T05swbreak:;thread:p10.11;…", "W00;process:10".
std::string stop_reply(const SessionState& state, const Event& event);

// lldb's word for it, or "".
std::string_view lldb_reason(Event::Kind kind);

// A thread just stands still, at the signal that is being delivered to it, if any.
Event standing(const SessionState& state, ThreadId thread);
std::string standing_reply(const SessionState& state, ThreadId thread);

}  // namespace snapgdb::gdbstub
