#include "gdbstub/handlers.h"
#include "gdbstub/run_control.h"
#include "gdbstub/signals.h"

// Which events a client wants to hear of.
namespace snapgdb::gdbstub {
namespace {

void choose(std::set<ThreadId>& those, ThreadId thread, bool wanted) {
  if (wanted)
    those.insert(thread);
  else
    those.erase(thread);
}

}  // namespace

// ":1;NUMBER;NUMBER…" (without numbers: all of them) or ":0", of the process that is selected.
Reply catch_system_calls(SessionState& state, Scanner arguments) {
  arguments.expect(':');
  const bool wanted = arguments.hex() != 0;
  std::set<uint64_t> numbers;
  while (arguments.skip(';')) numbers.insert(arguments.hex());
  arguments.expect_end();
  auto& by_process = state.running.wishes.system_calls;
  const Pid pid = state.selected_process();
  if (wanted)
    by_process[pid] = std::move(numbers);
  else
    by_process.erase(pid);
  tell_wishes(state);
  return "OK";
}

// ":NUMBER;NUMBER…": all that are to be delivered without a word. What Linux does not have never
// comes.
Reply pass_signals(SessionState& state, Scanner arguments) {
  arguments.expect(':');
  std::set<int> passed;
  while (!arguments.at_end()) {
    const auto number = static_cast<int>(arguments.hex() & 0xff);
    if (!arguments.at_end()) arguments.expect(';');
    if (const auto known = state.client.lldb ? number : linux_signal(number)) passed.insert(*known);
  }
  state.running.wishes.passed_signals = std::move(passed);
  tell_wishes(state);
  return "OK";
}

Reply choose_thread_events(SessionState& state, Scanner arguments) {
  arguments.expect(':');
  state.running.wishes.threads = arguments.hex() != 0;
  tell_wishes(state);
  return "OK";
}

// ";OPTIONS:THREAD;OPTIONS:THREAD…", where the last that fits a thread counts; without a thread:
// all of them. Of threads that nothing fits, the options stay.
Reply choose_thread_options(SessionState& state, Scanner arguments) {
  enum : uint64_t { kClone = 1, kExit = 2 };
  Wishes wishes = state.running.wishes;
  arguments.expect(';');
  do {
    Scanner each(arguments.until(';'));
    const uint64_t options = each.hex();
    if (options & ~(kClone | kExit)) throw PacketError{kMalformed, "there is no such option"};
    const ThreadPattern pattern = each.skip(':') ? each.thread() : ThreadPattern{-1, -1};
    each.expect_end();
    for (const ThreadId thread : state.threads(pattern)) {
      choose(wishes.clones, thread, options & kClone);
      choose(wishes.exits, thread, options & kExit);
    }
  } while (!arguments.at_end());
  state.running.wishes = std::move(wishes);
  tell_wishes(state);
  return "OK";
}

}  // namespace snapgdb::gdbstub
