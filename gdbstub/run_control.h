#pragma once

#include <optional>
#include <string>
#include <vector>

#include "gdbstub/session_state.h"

namespace snapgdb::gdbstub {

// Nothing has run, for a reason that the user is to read.
struct CannotRun {
  std::string text;
};

// Whether an action is for this thread.
bool means(const ResumeAction& action, ThreadId thread);

// Lets threads run. The first time, the moment comes to life, with all that was changed in it.
// Throws CannotRun.
void resume(SessionState& state, std::vector<ResumeAction> actions);

// The next event of what the client has resumed, if there is one; never waits. What others do
// meanwhile is kept until they are resumed.
std::optional<Event> next_event(SessionState& state);

// The client is being told of this event: who is attached, and selected, follows from it. Returns
// the reply.
std::string tell(SessionState& state, const Event& event);
// The same; nullopt: its thread has been killed meanwhile, of which there is to be heard yet.
std::optional<std::string> tell_if_there(SessionState& state, const Event& event);

// For a client to which everything stands still from then on: tells of the next event. Takes along
// what the program has written.
std::optional<std::string> stop_at_event(SessionState& state);

// Tells what runs, if something does, of which events the client wants to hear.
void tell_wishes(const SessionState& state);

// The client leaves the moment that it looks at for another one.
void note_signals(SessionState& state);

// Whatever runs is dropped, and the client looks at the snapshot again, with what it had changed
// there before. In non-stop mode it is notified of all that it takes for running.
void return_to_snapshot(SessionState& state);
// There is only the snapshot, in non-stop mode: notifies the client of those threads of `whom` that
// it takes for running.
void tell_who_stands(SessionState& state, const ResumeAction& whom);
// The same, and what was changed there is as it was.
void begin_anew(SessionState& state);

// The snapshot has the memory that a breakpoint is in, if it is in any.
bool has_place_for(const SessionState& state, Pid pid, const Breakpoint& breakpoint);

// There is another snapshot than before: who is not in it is away, and who was and is in it is
// attached to again.
void look_again(SessionState& state);

// The client asks for a thread's signal: perhaps the beginning of a function call.
void note_call(SessionState& state);
// The client has written registers: perhaps back, at the end of a call. The diversion is over then.
void end_call(SessionState& state, ThreadId thread);
// The client writes to `address`: perhaps to what a call of malloc has returned, for the next call.
// The diversion is not over then.
void continue_diversion(SessionState& state, uint64_t address);

// The client is done with a process, which is killed (`kill`), or else runs on where something is
// left to run with.
void part_with(SessionState& state, Pid pid, bool kill);

}  // namespace snapgdb::gdbstub
