// A thread in each kind of blocking system call, which must go on properly after a stop.
//
// Calls with a time limit are made again and again, --round milliseconds each, and must take that
// long, however often they were interrupted: begun anew, they would take up to twice as long. Calls
// without one block from the start to the end. Before "ready" it says "thread PID TID".
//
// With --once each call is made once, and the end is for "outcome NAME RESULT ERRNO", with which
// one way of stopping can be compared with another.

#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "blocking.h"

namespace {

uint64_t round_ns;

int block_all_the_time() {
  target::BlockedThreads blocked(round_ns, round_ns * 3 / 4);
  for (const target::Thread& thread : blocked.threads())
    target::say("thread %d %d", getpid(), thread.tid());
  target::ready();
  target::wait_for_end();
  blocked.finish();
  return target::verdict();
}

void make_once(const target::BlockingCall& call) {
  const uint64_t begin = target::now_ns();
  const target::Outcome outcome = target::outcome_of(call, round_ns);
  const bool early = !call.release && outcome == call.expected &&
                     target::now_ns() - begin + target::kTickNs < round_ns;
  target::say("outcome %s: %ld %s%s", call.name, outcome.result, strerrorname_np(outcome.error),
              early ? " too early" : "");
}

int block_once() {
  target::prepare_blocking();
  std::vector<target::Thread> threads;
  for (const auto calls : {target::endless_calls(), target::timed_calls()})
    for (const target::BlockingCall& call : calls) {
      threads.emplace_back(call.name, [&call] { make_once(call); });
      target::wait_until_blocked(threads.back().tid(), call.system_call);
    }
  target::ready();
  target::wait_for_end();
  const auto endless = target::endless_calls();
  for (size_t i = 0; i < endless.size(); ++i)
    if (threads[i].alive()) endless[i].release(threads[i]);
  for (target::Thread& thread : threads) thread.join();
  target::end_blocking();
  return target::verdict();
}

}  // namespace

int main(int argc, char** argv) {
  target::prepare_end();
  round_ns = strtoull(target::option(argc, argv, "--round", "1000"), nullptr, 10) * 1000000;
  return target::has_flag(argc, argv, "--once") ? block_once() : block_all_the_time();
}
