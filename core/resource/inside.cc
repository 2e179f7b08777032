#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <algorithm>
#include <array>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/visitor.h"
#include "core/resource/hosts.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

constexpr int kSignals = 64;
constexpr long kGetTidAddress = 40;  // PR_GET_TID_ADDRESS

struct KernelAction {  // struct sigaction of the kernel
  uint64_t handler, flags, restorer, mask;
};
struct KernelStack {  // stack_t
  uint64_t address;
  int32_t flags, padding;
  uint64_t size;
};

uint64_t ns(const timeval& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 +
         static_cast<uint64_t>(time.tv_usec) * 1000;
}
uint64_t ns(const timespec& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

// /proc/PID/timers, for each POSIX timer: "ID: 0", "signal: 60/00007fff86e452a8",
// "notify: signal/pid.2634", "ClockID: 0". The time left is not there.
void list_timers(const ProcDirectory& proc, pb::Process& process) {
  const std::string text = proc.read_if_allowed("timers").value_or("");
  for (const std::string_view line : split(text, '\n')) {
    const size_t colon = line.find(':');
    const std::string_view key = line.substr(0, colon), value = trim(line.substr(colon + 1));
    if (key == "ID") process.add_timers()->set_id(parse_number<uint32_t>(value).value_or(0));
    if (process.timers().empty()) continue;
    pb::PosixTimer& timer = *process.mutable_timers()->rbegin();
    if (key == "signal") {
      const size_t slash = value.find('/');
      timer.set_signal(parse_number<uint32_t>(value.substr(0, slash)).value_or(0));
      timer.set_value(parse_number<uint64_t>(value.substr(slash + 1), 16).value_or(0));
    } else if (key == "notify") {
      timer.set_notify(printable(value));
    } else if (key == "ClockID") {
      timer.set_clock(parse_number<int32_t>(value).value_or(0));
    }
  }
}

// Results of calls that a Visitor makes, one after the other in its process's memory.
template <typename Result>
class Results {
 public:
  Results(Visitor& visitor, size_t count)
      : visitor_(visitor), address_(visitor.reserve(count * sizeof(Result))), values_(count) {}
  uint64_t address_of(size_t i) const { return address_ + i * sizeof(Result); }
  const std::vector<Result>& read() {
    visitor_.read(address_, std::as_writable_bytes(std::span(values_)));
    return values_;
  }

 private:
  Visitor& visitor_;
  uint64_t address_;
  std::vector<Result> values_;
};

void add_action(uint32_t signal, const KernelAction& action, pb::Process& process) {
  if (action.handler == 0 && action.flags == 0 && action.mask == 0) return;
  pb::SignalAction& out = *process.add_signal_actions();
  out.set_signal(signal);
  out.set_handler(action.handler);
  out.set_flags(action.flags);
  out.set_restorer(action.restorer);
  out.set_mask(action.mask);
}

void ask_process(Tracee& host, const Detour::Place& place, const ProcDirectory& proc,
                 pb::Process& process) {
  list_timers(proc, process);
  // What is neither caught nor ignored has the default action, whose flags are without effect but
  // for those of SIGCHLD (SA_NOCLDWAIT).
  const ProcFields status(proc.read("status"));
  const uint64_t of_interest =
      status.number("SigCgt", 16) | status.number("SigIgn", 16) | uint64_t{1} << (SIGCHLD - 1);
  const auto timer_count = static_cast<size_t>(process.timers_size());
  Visitor visitor(host, place);
  Results<KernelAction> actions(visitor, kSignals);
  Results<itimerval> intervals(visitor, 3);
  Results<itimerspec> timers(visitor, timer_count);
  Results<int32_t> subreaper(visitor, 1);
  for (uint64_t i = 0; i < kSignals; ++i)
    if (of_interest >> i & 1) visitor.call(SYS_rt_sigaction, {i + 1, 0, actions.address_of(i), 8});
  for (uint64_t which = 0; which < 3; ++which)
    visitor.call(SYS_getitimer, {which, intervals.address_of(which)});
  visitor.call(SYS_prctl, {PR_GET_CHILD_SUBREAPER, subreaper.address_of(0)});
  const size_t reached = std::min(timer_count, visitor.room());
  for (size_t i = 0; i < reached; ++i)
    visitor.call(SYS_timer_gettime,
                 {process.timers(static_cast<int>(i)).id(), timers.address_of(i)});
  visitor.run();

  for (size_t i = 0; i < kSignals; ++i)
    add_action(static_cast<uint32_t>(i + 1), actions.read()[i], process);
  for (uint32_t which = 0; which < 3; ++which) {
    pb::IntervalTimer& out = *process.add_interval_timers();
    out.set_which(which);
    out.set_value_ns(ns(intervals.read()[which].it_value));
    out.set_interval_ns(ns(intervals.read()[which].it_interval));
  }
  for (size_t i = 0; i < reached; ++i) {
    pb::PosixTimer& out = *process.mutable_timers(static_cast<int>(i));
    out.set_value_ns(ns(timers.read()[i].it_value));
    out.set_interval_ns(ns(timers.read()[i].it_interval));
  }
  process.set_child_subreaper(subreaper.read()[0] != 0);
  if (reached < timer_count)
    throw SystemError(fmt::format("{} of {} timers", timer_count - reached, timer_count), E2BIG);
}

constexpr size_t kAskThreadScratch = 64;

void ask_thread(Tracee& task, const Detour::Place& place, bool is_leader, pb::Thread& thread) {
  struct {
    KernelStack stack;
    uint64_t tid_address;
    int32_t signal;
  } inside{};
  static_assert(sizeof inside <= kAskThreadScratch);
  Detour detour(task, place, kAskThreadScratch);
  const auto address_of = [&](const auto& member) {
    return detour.scratch() + static_cast<uint64_t>(reinterpret_cast<const std::byte*>(&member) -
                                                    reinterpret_cast<const std::byte*>(&inside));
  };
  detour.write(detour.scratch(), std::as_bytes(std::span(&inside, 1)));
  detour.call(SYS_sigaltstack, {0, address_of(inside.stack)});
  detour.call(SYS_prctl, {kGetTidAddress, address_of(inside.tid_address)});
  // It belongs to the thread too, but is a matter of whole processes.
  if (is_leader) detour.call(SYS_prctl, {PR_GET_PDEATHSIG, address_of(inside.signal)});
  detour.read(detour.scratch(), std::as_writable_bytes(std::span(&inside, 1)));
  detour.go_home();
  pb::AlternateStack& stack = *thread.mutable_alternate_stack();
  stack.set_address(inside.stack.address);
  stack.set_size(inside.stack.size);
  stack.set_flags(static_cast<uint32_t>(inside.stack.flags));
  thread.set_clear_child_tid(inside.tid_address);
  thread.set_parent_death_signal(static_cast<uint32_t>(inside.signal));
}

void capture_process(CaptureContext& context, const FrozenProcess& frozen, pb::Process& process) {
  const Host host = host_in(frozen, context, Visitor::kScratch);
  if (!host.task) return context.lacks(frozen.pid, {}, "signal actions and timers", host.why_not);
  ask_process(*host.task, host.place, frozen.proc, process);
}

void capture_thread(CaptureContext& context, const StoppedTask& stopped, pb::Thread& thread) {
  const FrozenProcess& frozen = stopped.process;
  const Tid tid = stopped.task.tid;
  const Host host = host_of(stopped, context, kAskThreadScratch);
  if (!host.task)
    return context.lacks(frozen.pid, tid, "alternate stack and address of the thread id",
                         host.why_not);
  ask_thread(*host.task, host.place, tid == leader_of(frozen.pid), thread);
}

}  // namespace

const ProcessResource kInsideProcess{"signal actions and timers", capture_process, true};
const ThreadResource kInsideThread{"alternate stack", capture_thread, true};

}  // namespace snapgdb
