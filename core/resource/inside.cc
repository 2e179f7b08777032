#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/resource/hosts.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

constexpr int kSignals = 64;
constexpr uint64_t kGetTidAddress = 40;        // PR_GET_TID_ADDRESS
constexpr uint64_t kGetDenyWriteExecute = 66;  // PR_GET_MDWE

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

// System calls whose answers a task of the program writes into memory of its own.
class Inquiry {
 public:
  // `answers`: bytes in all; `calls`: their number. Both at most.
  Inquiry(Tracee& host, const Detour::Place& place, size_t answers, size_t calls)
      : detour_(host, place, room_for(answers, calls)), memory_(answers) {}
  static size_t room_for(size_t answers, size_t calls) { return answers + Detour::room_for(calls); }

  // Where the kernel is to write what will be `out`.
  template <typename Answer>
  uint64_t address_for(Answer& out) {
    const size_t at = (used_ + alignof(Answer) - 1) / alignof(Answer) * alignof(Answer);
    used_ = at + sizeof(Answer);
    answers_.push_back({at, std::as_writable_bytes(std::span(&out, 1))});
    return detour_.scratch() + at;
  }
  // `result`: gets what the call returns.
  void call(long number, const SystemCallArguments& arguments, int32_t* result = nullptr) {
    calls_.push_back({number, arguments});
    results_.push_back(result);
  }
  void run() {
    detour_.write(detour_.scratch(), memory_);  // zeros: what a call leaves alone reads as that
    const std::vector<int32_t> results = detour_.perform(calls_);
    for (size_t i = 0; i < results.size(); ++i)
      if (results_[i]) *results_[i] = results[i];
    detour_.read(detour_.scratch(), memory_);
    detour_.go_home();
    for (const auto& [at, out] : answers_) std::memcpy(out.data(), &memory_[at], out.size());
  }

 private:
  struct Answer {
    size_t at;
    std::span<std::byte> out;
  };
  Detour detour_;
  std::vector<std::byte> memory_;
  size_t used_ = 0;
  std::vector<Answer> answers_;
  std::vector<SystemCall> calls_;
  std::vector<int32_t*> results_;
};

// Where there is no such thing (an older kernel), it is not in use.
uint32_t unless_refused(int32_t result) {
  return static_cast<uint32_t>(std::max(result, 0));
}

void add_action(uint32_t signal, const KernelAction& action, pb::Process& process) {
  if (action.handler == 0 && action.flags == 0 && action.mask == 0) return;
  pb::SignalAction& out = *process.add_signal_actions();
  out.set_signal(signal);
  out.set_handler(action.handler);
  out.set_flags(action.flags);
  out.set_restorer(action.restorer);
  out.set_mask(action.mask);
}

struct ProcessAnswers {
  KernelAction actions[kSignals];
  itimerval intervals[3];
  int32_t subreaper;
};
constexpr size_t kProcessCalls = kSignals + 3 + 3;

size_t room_to_ask_process(size_t timers) {
  return Inquiry::room_for(sizeof(ProcessAnswers) + timers * sizeof(itimerspec),
                           kProcessCalls + timers);
}

void ask_process(const Host& host, pb::Process& process) {
  ProcessAnswers answers{};
  std::vector<itimerspec> timers(static_cast<size_t>(process.timers_size()));
  int32_t huge_pages_disabled = 0, deny_write_execute = 0;
  Inquiry inquiry(*host.task, host.place, sizeof answers + timers.size() * sizeof(itimerspec),
                  kProcessCalls + timers.size());
  for (uint64_t i = 0; i < kSignals; ++i)
    inquiry.call(SYS_rt_sigaction, {i + 1, 0, inquiry.address_for(answers.actions[i]), 8});
  for (uint64_t which = 0; which < 3; ++which)
    inquiry.call(SYS_getitimer, {which, inquiry.address_for(answers.intervals[which])});
  inquiry.call(SYS_prctl, {PR_GET_CHILD_SUBREAPER, inquiry.address_for(answers.subreaper)});
  inquiry.call(SYS_prctl, {PR_GET_THP_DISABLE}, &huge_pages_disabled);
  inquiry.call(SYS_prctl, {kGetDenyWriteExecute}, &deny_write_execute);
  for (size_t i = 0; i < timers.size(); ++i)
    inquiry.call(SYS_timer_gettime,
                 {process.timers(static_cast<int>(i)).id(), inquiry.address_for(timers[i])});
  inquiry.run();

  for (uint32_t i = 0; i < kSignals; ++i) add_action(i + 1, answers.actions[i], process);
  for (uint32_t which = 0; which < 3; ++which) {
    pb::IntervalTimer& out = *process.add_interval_timers();
    out.set_which(which);
    out.set_value_ns(ns(answers.intervals[which].it_value));
    out.set_interval_ns(ns(answers.intervals[which].it_interval));
  }
  for (size_t i = 0; i < timers.size(); ++i) {
    pb::PosixTimer& out = *process.mutable_timers(static_cast<int>(i));
    out.set_value_ns(ns(timers[i].it_value));
    out.set_interval_ns(ns(timers[i].it_interval));
  }
  process.set_child_subreaper(answers.subreaper != 0);
  process.set_thp_disabled(unless_refused(huge_pages_disabled));
  process.set_deny_write_execute(unless_refused(deny_write_execute));
}

struct ThreadAnswers {
  KernelStack stack;
  uint64_t tid_address;
  int32_t signal, tsc;
};
constexpr size_t kThreadCalls = 6;

void ask_thread(const Host& host, pb::Thread& thread) {
  ThreadAnswers answers{};
  int32_t securebits = 0, machine_check = 0;
  Inquiry inquiry(*host.task, host.place, sizeof answers, kThreadCalls);
  inquiry.call(SYS_sigaltstack, {0, inquiry.address_for(answers.stack)});
  inquiry.call(SYS_prctl, {kGetTidAddress, inquiry.address_for(answers.tid_address)});
  inquiry.call(SYS_prctl, {PR_GET_PDEATHSIG, inquiry.address_for(answers.signal)});
  inquiry.call(SYS_prctl, {PR_GET_TSC, inquiry.address_for(answers.tsc)});
  inquiry.call(SYS_prctl, {PR_GET_SECUREBITS}, &securebits);
  inquiry.call(SYS_prctl, {PR_MCE_KILL_GET}, &machine_check);
  inquiry.run();

  pb::AlternateStack& stack = *thread.mutable_alternate_stack();
  stack.set_address(answers.stack.address);
  stack.set_size(answers.stack.size);
  stack.set_flags(static_cast<uint32_t>(answers.stack.flags));
  thread.set_clear_child_tid(answers.tid_address);
  thread.set_parent_death_signal(static_cast<uint32_t>(answers.signal));
  thread.set_tsc_mode(static_cast<uint32_t>(answers.tsc));
  thread.set_machine_check_policy(unless_refused(machine_check));
  thread.mutable_credentials()->set_securebits(unless_refused(securebits));
}

void capture_process(CaptureContext& context, const FrozenProcess& frozen, pb::Process& process) {
  list_timers(frozen.proc, process);
  const size_t room = room_to_ask_process(static_cast<size_t>(process.timers_size()));
  const Host host = host_in(frozen, context, room);
  if (!host.task) return context.lacks(frozen.pid, {}, "signal actions and timers", host.why_not);
  ask_process(host, process);
}

void capture_thread(CaptureContext& context, const StoppedTask& stopped, pb::Thread& thread) {
  const Host host =
      host_of(stopped, context, Inquiry::room_for(sizeof(ThreadAnswers), kThreadCalls));
  if (!host.task)
    return context.lacks(stopped.process.pid, stopped.task.tid,
                         "alternate stack and address of the thread id", host.why_not);
  ask_thread(host, thread);
}

}  // namespace

const ProcessResource kInsideProcess{"signal actions and timers", capture_process, true};
const ThreadResource kInsideThread{"alternate stack", capture_thread, true};

}  // namespace snapgdb
