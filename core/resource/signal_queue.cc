#include "core/resource/signal_queue.h"

#include <signal.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>

#include "core/resource/restorer.h"

namespace snapgdb {

siginfo_t siginfo_in(const std::string& bytes) {
  siginfo_t info{};
  std::memcpy(&info, bytes.data(), std::min(bytes.size(), sizeof info));
  return info;
}

namespace {

// Sent by the kernel for what an instruction did (SYNCHRONOUS_MASK, kernel/signal.c), or in the way
// of the traps by which seeds stop.
bool is_queued_last(const siginfo_t& info) {
  constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGSYS};
  return info.si_signo == SIGTRAP ||
         (info.si_code > 0 && std::ranges::count(kSignals, info.si_signo) > 0);
}

}  // namespace

SystemCallArguments SignalQueue::arguments(const std::string& info, Seed& seed) const {
  SystemCallArguments all = before;
  all[known] = static_cast<uint64_t>(siginfo_in(info).si_signo);
  all[known + 1] = seed.put(std::as_bytes(std::span(info)));
  return all;
}

void SignalQueue::queue(Seed& seed) const {
  for (const std::string& info : infos)
    if (!is_queued_last(siginfo_in(info)))
      seed.add("queue a signal", number, arguments(info, seed));
  seed.perform();
}

void SignalQueue::queue_last(Seed& seed) const {
  for (const std::string& info : infos)
    if (is_queued_last(siginfo_in(info)))
      seed.call_silently("queue a signal", number, arguments(info, seed));
}

SignalQueue queue_of(const pb::Process& process) {
  return {{process.pending_siginfo().begin(), process.pending_siginfo().end()},
          SYS_rt_sigqueueinfo,
          {static_cast<uint64_t>(own_number(process))},
          1};
}

SignalQueue queue_of(const pb::Process& process, const pb::Thread& thread) {
  SignalQueue queue{
      {thread.pending_siginfo().begin(), thread.pending_siginfo().end()},
      SYS_rt_tgsigqueueinfo,
      {static_cast<uint64_t>(own_number(process)), static_cast<uint64_t>(own_number(thread))},
      2};
  if (!thread.stop_siginfo().empty())
    queue.infos.insert(queue.infos.begin(), thread.stop_siginfo());
  return queue;
}

}  // namespace snapgdb
