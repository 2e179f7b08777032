#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/resource/resources.h"
#include "core/resource/signal_queue.h"

namespace snapgdb {
namespace {

// prlimit(2) on another user's task needs CAP_SYS_RESOURCE; /proc/PID/limits has the numbers:
// "Max stack size            8388608              unlimited            bytes"
constexpr size_t kNameWidth = 26, kNumberWidth = 21;  // fs/proc/base.c, proc_pid_limits

uint64_t number(std::string_view text) {
  return parse_number<uint64_t>(trim(text)).value_or(UINT64_MAX);  // "unlimited"
}

void capture(CaptureContext&, const FrozenProcess& frozen, pb::Process& process) {
  const std::string text = frozen.proc.read("limits");
  auto lines = split(text, '\n');
  for (const std::string_view line : lines) {
    if (line.starts_with("Limit ") || line.size() < kNameWidth + kNumberWidth) continue;
    pb::Limit& limit = *process.add_limits();
    limit.set_name(std::string(trim(line.substr(0, kNameWidth))));
    limit.set_soft(number(line.substr(kNameWidth, kNumberWidth)));
    limit.set_hard(number(line.substr(kNameWidth + kNumberWidth, kNumberWidth)));
  }
}

// ---- Restoring ----------------------------------------------------------------------------------

// The order of RLIMIT_*, with the names of /proc/PID/limits (fs/proc/base.c, lnames).
constexpr std::string_view kNames[] = {
    "Max cpu time",       "Max file size",     "Max data size",         "Max stack size",
    "Max core file size", "Max resident set",  "Max processes",         "Max open files",
    "Max locked memory",  "Max address space", "Max file locks",        "Max pending signals",
    "Max msgqueue size",  "Max nice priority", "Max realtime priority", "Max realtime timeout"};

// More may be pending than the limit, lowered since, would let be queued.
bool has_more_pending_than(const pb::Process& process, uint64_t limit) {
  auto pending = static_cast<uint64_t>(process.pending_siginfo_size());
  for (const pb::Thread& thread : process.threads())
    pending +=
        static_cast<uint64_t>(thread.pending_siginfo_size()) + !thread.stop_siginfo().empty();
  return pending > limit;
}

// Without CAP_SYS_RESOURCE a hard limit can only go down: then it is ours.
void restore(RestoreContext& context, const pb::Process& process, Seed& seed) {
  for (const pb::Limit& limit : process.limits()) {
    const auto found = std::ranges::find(kNames, limit.name());
    if (found == std::end(kNames)) continue;
    const auto resource = static_cast<uint64_t>(found - kNames);
    rlimit value{limit.soft(), limit.hard()}, own{};
    ::getrlimit(static_cast<__rlimit_resource>(resource), &own);
    if (resource == RLIMIT_SIGPENDING && has_more_pending_than(process, limit.soft()))
      value.rlim_cur = value.rlim_max = std::max(value.rlim_max, own.rlim_max);
    const uint64_t at = seed.put_value(value);
    if (value.rlim_max <= own.rlim_max || seed.try_call(SYS_prlimit64, {0, resource, at}) != 0) {
      if (value.rlim_max > own.rlim_max)
        context.notes.push_back(fmt::format("process {}: the limit \"{}\" is {} instead of {}",
                                            process.pid(), limit.name(), own.rlim_max,
                                            value.rlim_max));
      value.rlim_max = std::min(value.rlim_max, own.rlim_max);
      value.rlim_cur = std::min(value.rlim_cur, value.rlim_max);
      seed.add(fmt::format("set the limit \"{}\" to {}", limit.name(), value.rlim_max),
               SYS_prlimit64, {0, resource, seed.put_value(value), 0});
    }
  }
  seed.perform();
}

}  // namespace

// By us: it may have no call to do after its last signals.
std::string limit_pending_signals(const pb::Process& process, Tid tid) {
  const auto limit =
      std::ranges::find(process.limits(), kNames[RLIMIT_SIGPENDING], &pb::Limit::name);
  if (limit == process.limits().end() || !has_more_pending_than(process, limit->soft())) return "";
  const rlimit value{limit->soft(), limit->hard()};
  if (::prlimit(tid.value, RLIMIT_SIGPENDING, &value, nullptr) == 0) return "";
  return fmt::format("process {}: the limit \"{}\" is not {}: {}", process.pid(), limit->name(),
                     limit->soft(), errno_text(errno));
}

const ProcessRestorer kLimitRestorer{"limits", restore};
const ProcessResource kLimits{"limits", capture};

}  // namespace snapgdb
