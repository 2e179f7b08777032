#include "elfconv/core_signal.h"

#include <signal.h>

#include <bit>
#include <cstring>

namespace snapgdb {
namespace {

constexpr size_t kSiginfoSize = 128;
static_assert(sizeof(siginfo_t) == kSiginfoSize);

constexpr uint64_t bit_of(int signal) {
  return uint64_t{1} << (signal - 1);
}

// signal(7): whose default action is to be ignored, or to stop or continue the process.
constexpr uint64_t kHarmless = bit_of(SIGCHLD) | bit_of(SIGCONT) | bit_of(SIGURG) |
                               bit_of(SIGWINCH) | bit_of(SIGSTOP) | bit_of(SIGTSTP) |
                               bit_of(SIGTTIN) | bit_of(SIGTTOU);

bool is_about(std::string_view siginfo, int signal) {
  int number;
  if (siginfo.size() != kSiginfoSize) return false;
  std::memcpy(&number, siginfo.data(), sizeof number);  // si_signo is the first member
  return number == signal;
}

std::string_view queued_siginfo(const google::protobuf::RepeatedPtrField<std::string>& queue,
                                int signal) {
  for (const std::string& siginfo : queue)
    if (is_about(siginfo, signal)) return siginfo;
  return {};
}

}  // namespace

ThreadSignal signal_of(const pb::Process& process, const pb::Thread& thread, bool with_process) {
  const auto number = static_cast<int>(thread.stop_signal());
  if (number != 0 && !thread.job_stopped()) {
    const bool known = is_about(thread.stop_siginfo(), number);
    return {number, known ? std::string_view(thread.stop_siginfo()) : std::string_view()};
  }
  const uint64_t pending =
      thread.signals_pending() | (with_process ? process.signals_pending() : 0);
  const uint64_t fatal = pending & ~thread.signal_mask() & ~process.signals_ignored() &
                         ~process.signals_caught() & ~kHarmless;
  if (fatal == 0) return {};
  const int first = std::countr_zero(fatal) + 1;
  std::string_view siginfo = queued_siginfo(thread.pending_siginfo(), first);
  if (siginfo.empty() && with_process) siginfo = queued_siginfo(process.pending_siginfo(), first);
  return {first, siginfo};
}

}  // namespace snapgdb
