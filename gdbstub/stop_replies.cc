#include "gdbstub/stop_replies.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <iterator>

#include "core/base/strings.h"
#include "gdbstub/signals.h"

namespace snapgdb::gdbstub {
namespace {

using Kind = Event::Kind;
using Detail = std::string(const SessionState& state, const Event& event);

std::string watched(const SessionState&, const Event& event) {
  const char* kind = event.watch == BreakpointKind::kRead     ? "rwatch"
                     : event.watch == BreakpointKind::kAccess ? "awatch"
                                                              : "watch";
  return fmt::format("{}:{:x};", kind, event.value);
}

// Only a client that says so knows where the thread stands after a breakpoint: at its address.
std::string software_breakpoint(const SessionState& state, const Event&) {
  return state.client.swbreak ? "swbreak:;" : "";
}

std::string hardware_breakpoint(const SessionState& state, const Event&) {
  return state.client.hwbreak ? "hwbreak:;" : "";
}

std::string forked(const SessionState& state, const Event& event) {
  return fmt::format("{}:{};", event.kind == Kind::kFork ? "fork" : "vfork",
                     state.text(event.child));
}

std::string cloned(const SessionState& state, const Event& event) {
  return fmt::format("clone:{};", state.text(event.child));
}

std::string executed(const SessionState&, const Event& event) {
  return fmt::format("exec:{};", to_hex(event.path));
}

std::string system_call(const SessionState&, const Event& event) {
  return fmt::format("{}:{:x};",
                     event.kind == Kind::kSyscallEntry ? "syscall_entry" : "syscall_return",
                     event.value);
}

// What a stop is, to gdb, which goes by the signal and the detail, and to lldb, which wants a
// reason.
struct StopRow {
  Kind kind;
  std::string_view reason;
  Detail* detail;
};

constexpr Detail* kNoDetail = nullptr;

constexpr StopRow kStops[] = {
    {Kind::kStopped, "", kNoDetail},
    {Kind::kSignal, "signal", kNoDetail},
    {Kind::kStepped, "trace", kNoDetail},
    {Kind::kSoftwareBreakpoint, "breakpoint", software_breakpoint},
    {Kind::kHardwareBreakpoint, "breakpoint", hardware_breakpoint},
    {Kind::kWatchpoint, "watchpoint", watched},
    {Kind::kFork, "", forked},
    {Kind::kVfork, "", forked},
    {Kind::kVforkDone, "",
     [](const SessionState&, const Event&) -> std::string { return "vforkdone:;"; }},
    {Kind::kExec, "exec", executed},
    {Kind::kSyscallEntry, "", system_call},
    {Kind::kSyscallReturn, "", system_call},
    {Kind::kThreadCreated, "",
     [](const SessionState&, const Event&) -> std::string { return "create:;"; }},
    {Kind::kClone, "", cloned},
};

int on_the_wire(const SessionState& state, int signal) {
  return state.client.lldb ? signal : gdb_signal(signal);
}

int signal_of(const Event& event) {
  if (event.kind == Kind::kSignal) return event.signal;
  return event.kind == Kind::kStopped ? 0 : SIGTRAP;
}

// The registers that a debugger looks at after every step, so that it need not ask for all of them.
std::string expedited(const SessionState& state, ThreadId thread) {
  static constexpr std::array<size_t, 3> kNumbers = {6, 7, 16};  // rbp, rsp, rip
  const RegisterSet set = state.target->registers(thread);
  std::string out;
  for (const size_t number : kNumbers)
    if (const auto value = RegisterLayout::value(set, state.target->layout().registers()[number]))
      out += fmt::format("{:02x}:{};", number, to_hex(*value));
  return out;
}

std::string thread_stop(const SessionState& state, const Event& event) {
  const auto* row = std::ranges::find(kStops, event.kind, &StopRow::kind);
  const ThreadDescription about = state.target->describe(event.thread);
  std::string reply = fmt::format("T{:02x}", on_the_wire(state, signal_of(event)));
  if (row->detail) reply += row->detail(state, event);
  reply += fmt::format("thread:{};core:{:x};", state.text(event.thread), about.cpu);
  if (state.client.lldb) {
    reply += fmt::format("hexname:{};", to_hex(about.name));
    if (!row->reason.empty()) reply += fmt::format("reason:{};", row->reason);
  }
  return state.running.target ? reply + expedited(state, event.thread) : reply;
}

std::string process_end(const SessionState& state, char letter, uint64_t number, Pid pid) {
  const std::string reply = fmt::format("{}{:02x}", letter, number);
  return state.client.multiprocess ? reply + fmt::format(";process:{:x}", pid.value) : reply;
}

}  // namespace

std::string stop_reply(const SessionState& state, const Event& event) {
  switch (event.kind) {
    case Kind::kExited:
      return process_end(state, 'W', event.value, event.thread.pid);
    case Kind::kKilled:
      return process_end(state, 'X', static_cast<uint64_t>(on_the_wire(state, event.signal)),
                         event.thread.pid);
    case Kind::kThreadExited:
      return fmt::format("w{:x};{}", event.value, state.text(event.thread));
    case Kind::kNothingRuns:
      return "N";
    default:
      return thread_stop(state, event);
  }
}

std::string_view lldb_reason(Event::Kind kind) {
  const auto* row = std::ranges::find(kStops, kind, &StopRow::kind);
  return row == std::end(kStops) ? "" : row->reason;
}

Event standing(const SessionState& state, ThreadId thread) {
  const int signal = state.target->describe(thread).signal;
  return {.kind = signal == 0 ? Kind::kStopped : Kind::kSignal, .thread = thread, .signal = signal};
}

std::string standing_reply(const SessionState& state, ThreadId thread) {
  return stop_reply(state, standing(state, thread));
}

}  // namespace snapgdb::gdbstub
