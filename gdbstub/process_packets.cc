#include <fmt/format.h>

#include "core/base/strings.h"
#include "gdbstub/handlers.h"
#include "gdbstub/run_control.h"
#include "gdbstub/stop_replies.h"

namespace snapgdb::gdbstub {
namespace {

Pid pid_argument(Scanner& arguments) {
  arguments.expect(';');
  const Pid pid = arguments.pid();
  arguments.expect_end();
  return pid;
}

void require_known(const SessionState& state, Pid pid) {
  if (!state.is_attached(pid) && !state.is_away(pid))
    throw PacketError{kNoSuchThread, fmt::format("not attached to {}", pid.value)};
}

// As a shell would have it. What is safe without quotes stays readable.
std::string shell_quoted(std::string_view word) {
  constexpr std::string_view kSafe =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789%+,-./:=@_";
  if (!word.empty() && word.find_first_not_of(kSafe) == std::string_view::npos)
    return std::string(word);
  std::string out = "'";
  for (const char c : word) c == '\'' ? out += "'\\''" : out += c;
  return out + "'";
}

// The only program there is to run is the one in the snapshot, from there on; gdb may know it by
// the name of what it has become later.
bool is_name_of(const SessionState& state, Pid pid, const std::string& name) {
  const auto known = state.programs.find(pid);
  return name.empty() || name == state.moment->executable(pid).value_or("") ||
         (known != state.programs.end() && name == known->second.path);
}

}  // namespace

// What gdb shows as `args`: those that the program of the snapshot got.
Reply program_and_arguments(SessionState& state, Scanner) {
  const Pid pid = state.attached.empty() ? state.first : state.selected_process();
  const pb::Process* process = state.snapshot->process(pid.value);
  const auto program = state.moment->executable(pid);
  if (!process || !program) return "U";
  std::string arguments;
  for (int i = 1; i < process->arguments_size(); ++i)
    arguments += (i > 1 ? " " : "") + shell_quoted(process->arguments(i));
  return fmt::format("S;{};{};", to_hex(*program), to_hex(arguments));
}

// In non-stop mode, the client is notified of every thread.
Reply attach_process(SessionState& state, Scanner arguments) {
  const Pid pid = pid_argument(arguments);
  state.attach(pid);
  state.programs[pid] = program_of(*state.target, pid);  // the client looks what it is
  if (!state.running.non_stop) return standing_reply(state, state.selected_thread());
  for (const Tid tid : state.target->threads(pid))
    state.running.events.push_back(standing(state, {pid, tid}));
  return "OK";
}

// Without a process: all of them.
Reply detach_process(SessionState& state, Scanner arguments) {
  if (arguments.at_end()) {
    while (!state.attached.empty()) part_with(state, state.attached.back(), false);
    state.away.clear();
    return "OK";
  }
  const Pid pid = pid_argument(arguments);
  require_known(state, pid);
  part_with(state, pid, false);
  return "OK";
}

// A process of a snapshot leaves the client's view, and can be attached to again.
Reply kill_process(SessionState& state, Scanner arguments) {
  const Pid pid = pid_argument(arguments);
  require_known(state, pid);
  part_with(state, pid, true);
  return "OK";
}

Reply kill_all(SessionState& state, Scanner) {
  return_to_snapshot(state);
  state.finished = true;
  return std::nullopt;
}

Reply run_program(SessionState& state, Scanner arguments) {
  arguments.expect(';');
  const std::string program = arguments.hex_text(';');
  const auto& parted = state.running.parted_with;
  const Pid pid = parted && !state.moment->threads(*parted).empty() ? *parted : state.first;
  if (!is_name_of(state, pid, program))
    throw PacketError{kCannot, fmt::format("a snapshot cannot start {}: only its own program, {}, "
                                           "goes on from there",
                                           program, state.moment->executable(pid).value_or(""))};
  begin_anew(state);
  state.running.arrived = true;
  if (state.is_attached(pid))
    state.select(state.thread({pid.value, -1}));
  else
    state.attach(pid);
  return standing_reply(state, state.selected_thread());
}

// Of older clients, which expect no reply.
Reply restart_program(SessionState& state, Scanner) {
  begin_anew(state);
  return std::nullopt;
}

}  // namespace snapgdb::gdbstub
