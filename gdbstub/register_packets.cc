#include <fmt/format.h>

#include <utility>

#include "core/base/strings.h"
#include "gdbstub/handlers.h"
#include "gdbstub/run_control.h"
#include "gdbstub/stop_replies.h"

namespace snapgdb::gdbstub {
namespace {

// "xx…": not known. Never zeros.
std::string shown(const RegisterSet& set, const Register& wanted) {
  const auto bytes = RegisterLayout::value(set, wanted);
  return bytes ? to_hex(*bytes) : std::string(2 * wanted.size(), 'x');
}

const Register& numbered(const RegisterLayout& layout, uint64_t number) {
  if (number >= layout.registers().size())
    throw PacketError{kMalformed, "there is no such register"};
  return layout.registers()[number];
}

// gdb asks one by one for the registers that it wants and this packet does not have. A backtrace of
// a thread wants general ones only; and through a pipe, gdb makes a system call for every byte.
std::span<const Register> sent_together(const SessionState& state) {
  const RegisterLayout& layout = state.target->layout();
  return state.client.lldb ? layout.registers() : layout.general();
}

// gdb never takes the last thread from a process, and shows it also where the process is away: with
// registers of which nothing is known. An error would end its list of threads.
RegisterSet registers_of_selected(const SessionState& state) {
  if (state.chosen && state.is_away(state.selected.pid)) return {};
  return state.target->registers(state.selected_thread());
}

// The first time after it has connected in non-stop mode, the client has dealt with the first
// thread.
void notify_of_others(SessionState& state) {
  for (const ThreadId thread : std::exchange(state.running.standing, {}))
    if (state.running.non_stop && state.target->has(thread))
      state.running.events.push_back(standing(state, thread));
}

}  // namespace

Reply read_registers(SessionState& state, Scanner arguments) {
  arguments.expect_end();
  notify_of_others(state);
  const RegisterSet set = registers_of_selected(state);
  std::string reply;
  for (const Register& each : sent_together(state)) reply += shown(set, each);
  return reply;
}

// A debugger that writes all of them wants to change one: those that stay as they are, or that the
// thread does not have, are left alone.
Reply write_registers(SessionState& state, Scanner arguments) {
  const ThreadId thread = state.selected_thread();
  const std::string bytes = arguments.hex_bytes();
  RegisterSet set = state.target->registers(thread);
  size_t at = 0;
  for (const Register& each : sent_together(state)) {
    if (bytes.size() - at < each.size()) throw PacketError{kMalformed, "registers are missing"};
    const std::string value = bytes.substr(at, each.size());
    const auto old = RegisterLayout::value(set, each);
    if (old && *old != value) RegisterLayout::assign(set, each, value);
    at += each.size();
  }
  if (at != bytes.size()) throw PacketError{kMalformed, "there are too many registers"};
  state.target->set_registers(thread, std::move(set));
  end_call(state, thread);
  return "OK";
}

Reply read_register(SessionState& state, Scanner arguments) {
  const Register& wanted = numbered(state.target->layout(), arguments.hex());
  arguments.expect_end();
  return shown(registers_of_selected(state), wanted);
}

Reply write_register(SessionState& state, Scanner arguments) {
  const Register& changed = numbered(state.target->layout(), arguments.hex());
  arguments.expect('=');
  const std::string bytes = arguments.hex_bytes();
  if (bytes.size() != changed.size())
    throw PacketError{kMalformed, fmt::format("{} has {} bits", changed.name, changed.bits)};
  const ThreadId thread = state.selected_thread();
  RegisterSet set = state.target->registers(thread);
  if (!RegisterLayout::assign(set, changed, bytes))
    throw PacketError{kNotThere, fmt::format("the snapshot does not have {}", changed.name)};
  state.target->set_registers(thread, std::move(set));
  end_call(state, thread);
  return "OK";
}

}  // namespace snapgdb::gdbstub
