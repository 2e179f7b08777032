#include <fmt/format.h>

#include "core/base/strings.h"
#include "gdbstub/handlers.h"
#include "gdbstub/monitor.h"
#include "gdbstub/thread_local.h"

namespace snapgdb::gdbstub {

Reply enable_extended_mode(SessionState& state, Scanner) {
  state.client.extended = true;
  return "OK";
}

Reply start_no_ack_mode(SessionState& state, Scanner) {
  state.acknowledge = false;
  return "OK";
}

Reply current_thread(SessionState& state, Scanner) {
  return "QC" + state.text(state.selected_thread());
}

// Hg selects what reading and writing is about, Hc what c, C, s and S are; vCont names its threads
// itself.
Reply select_thread(SessionState& state, Scanner arguments) {
  const bool general = arguments.skip('g');
  if (!general) arguments.expect('c');
  const ThreadPattern pattern = arguments.thread();
  if (!general) {
    if (!pattern.is_any()) state.thread(pattern);
    state.to_run = pattern;
  } else if (pattern.is_any()) {
    state.chosen = false;
  } else {
    state.choose(pattern);
  }
  return "OK";
}

Reply thread_is_alive(SessionState& state, Scanner arguments) {
  state.thread(arguments.thread());
  return "OK";
}

Reply thread_local_variable(SessionState& state, Scanner arguments) {
  arguments.expect(':');
  const ThreadId thread = state.thread(arguments.thread());
  arguments.expect(',');
  const uint64_t offset = arguments.hex();
  arguments.expect(',');
  const uint64_t link_map = arguments.hex();
  arguments.expect_end();
  return fmt::format("{:x}", thread_local_address(*state.target, thread, link_map, offset));
}

Reply first_thread_ids(SessionState& state, Scanner) {
  std::string reply = "m";
  for (const Pid pid : state.attached)
    for (const Tid tid : state.target->threads(pid))
      reply += (reply.size() > 1 ? "," : "") + state.text({pid, tid});
  return reply.size() > 1 ? reply : "l";
}

Reply more_thread_ids(SessionState&, Scanner) {
  return "l";
}

Reply thread_label(SessionState& state, Scanner arguments) {
  arguments.expect(',');
  const ThreadId thread = state.thread(arguments.thread());
  return to_hex(state.target->describe(thread).name);
}

// A client that was attached to a process detaches from it in the end instead of killing it.
Reply was_attached(SessionState& state, Scanner arguments) {
  if (arguments.skip(':')) state.hint(arguments.pid());
  return "1";
}

// We need no symbols, and say so at the first offer.
Reply offer_symbols(SessionState&, Scanner) {
  return "OK";
}

Reply monitor_command(SessionState& state, Scanner arguments) {
  arguments.expect(',');
  state.console += run_monitor(state, arguments.hex_bytes());
  return "OK";
}

}  // namespace snapgdb::gdbstub
