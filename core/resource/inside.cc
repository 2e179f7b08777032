#include <linux/keyctl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <algorithm>
#include <array>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/remote_memory.h"
#include "core/linux/task.h"
#include "core/resource/hosts.h"
#include "core/resource/inquiry.h"
#include "core/resource/keyrings.h"
#include "core/resource/locked_later.h"
#include "core/resource/resources.h"
#include "core/resource/sharing.h"

namespace snapgdb {
namespace {

constexpr int kSignals = 64;
constexpr uint64_t kGetTidAddress = 40;  // PR_GET_TID_ADDRESS
// arch_prctl(2): ARCH_GET_XCOMP_PERM, ARCH_REQ_XCOMP_PERM (arch/x86/include/uapi/asm/prctl.h).
constexpr uint64_t kGetXstatePermitted = 0x1022, kRequestXstate = 0x1023;
constexpr uint64_t kMembarrierRegistrations = 512;  // MEMBARRIER_CMD_GET_REGISTRATIONS
constexpr uint64_t kSetDenyWriteExecute = 65;       // PR_SET_MDWE, Linux 6.3
constexpr uint64_t kGetDenyWriteExecute = 66;       // PR_GET_MDWE
constexpr uint64_t kSetMemoryMerge = 67;            // PR_SET_MEMORY_MERGE, Linux 6.4
constexpr uint64_t kGetMemoryMerge = 68;            // PR_GET_MEMORY_MERGE
// get_mempolicy(2). The kernel has up to 1024 nodes (MAX_NUMNODES) and refuses room for fewer.
constexpr size_t kNodeWords = 16;

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
  // Linux 6.15 lists them in any order; they are made again by their numbers.
  std::ranges::sort(*process.mutable_timers(), {}, &pb::PosixTimer::id);
}

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
  uint64_t xstate_permitted;
};
constexpr size_t kProcessCalls = kSignals + 3 + 8;

// What only a thread itself is told.
class ThreadQuestions {
 public:
  static constexpr size_t kCalls = 10, kAnswers = 64 + (kNodeWords + 1) * sizeof(uint64_t);

  void ask(Inquiry& inquiry) {
    inquiry.call(SYS_sigaltstack, {0, inquiry.address_for(stack_)});
    inquiry.call(SYS_prctl, {kGetTidAddress, inquiry.address_for(tid_address_)});
    inquiry.call(SYS_prctl, {PR_GET_PDEATHSIG, inquiry.address_for(signal_)});
    inquiry.call(SYS_prctl, {PR_GET_TSC, inquiry.address_for(tsc_)});
    inquiry.call(SYS_prctl, {PR_GET_SECUREBITS}, &securebits_);
    inquiry.call(SYS_prctl, {PR_MCE_KILL_GET}, &machine_check_);
    ask_for_memory_policy(inquiry);
    ask_for_keyrings(inquiry);
  }
  void answer(CaptureContext& context, Pid pid, pb::Thread& thread) const {
    pb::AlternateStack& stack = *thread.mutable_alternate_stack();
    stack.set_address(stack_.address);
    stack.set_size(stack_.size);
    stack.set_flags(static_cast<uint32_t>(stack_.flags));
    thread.set_clear_child_tid(tid_address_);
    thread.set_parent_death_signal(static_cast<uint32_t>(signal_));
    thread.set_tsc_mode(static_cast<uint32_t>(tsc_));
    thread.set_machine_check_policy(unless_refused(machine_check_));
    thread.mutable_credentials()->set_securebits(unless_refused(securebits_));
    thread.set_memory_policy(static_cast<uint32_t>(memory_policy_));
    thread.set_memory_nodes(memory_nodes_[0]);
    thread.set_keyrings_untold(keyrings_untold_);
    describe_keyrings(context, pid, keyrings_, thread);
  }

 private:
  // Container runtimes forbid it to who has no right to nodes either.
  void ask_for_memory_policy(Inquiry& inquiry) {
    const SystemCallArguments arguments{inquiry.address_for(memory_policy_),
                                        inquiry.address_for(memory_nodes_), kNodeWords * 64};
    if (inquiry.may_call(SYS_get_mempolicy, arguments)) inquiry.call(SYS_get_mempolicy, arguments);
  }

  // Without side effects: none of these makes a keyring. Container runtimes forbid them.
  void ask_for_keyrings(Inquiry& inquiry) {
    const auto special = [](int id) { return static_cast<uint64_t>(int64_t{id}); };
    const uint64_t name = inquiry.address_for(session_name_);
    const struct {
      long number;
      SystemCallArguments arguments;
      int32_t& result;
    } questions[] = {
        {SYS_keyctl, {KEYCTL_READ, special(KEY_SPEC_THREAD_KEYRING)}, keyrings_.thread},
        {SYS_keyctl, {KEYCTL_READ, special(KEY_SPEC_PROCESS_KEYRING)}, keyrings_.process},
        {SYS_request_key, {name, name + sizeof session_name_.type}, keyrings_.session},
    };
    for (const auto& [number, arguments, result] : questions)
      if (inquiry.may_call(number, arguments))
        inquiry.call(number, arguments, &result);
      else
        keyrings_untold_ = true;
  }

  KernelStack stack_{};
  uint64_t tid_address_ = 0;
  int32_t signal_ = 0, tsc_ = 0, securebits_ = 0, machine_check_ = 0, memory_policy_ = 0;
  std::array<uint64_t, kNodeWords> memory_nodes_{};
  SessionKeyringName session_name_;
  KeyringAnswers keyrings_;
  bool keyrings_untold_ = false;
};

size_t answers_of_process(size_t timers) {
  return sizeof(ProcessAnswers) + timers * sizeof(itimerspec) + ThreadQuestions::kAnswers;
}
size_t calls_of_process(size_t timers) {
  return kProcessCalls + timers + ThreadQuestions::kCalls;
}

class ProcessQuestion : public Question {
 public:
  // Questions about the host go along. Both records have to outlive this.
  ProcessQuestion(CaptureContext& context, const Host& host, const FrozenProcess& frozen,
                  pb::Process& process)
      : context_(context),
        process_(process),
        asked_(host),
        has_locked_(frozen.task_status().number("VmLck") != 0),
        host_(*std::ranges::find(*process.mutable_threads(), host.task->tid().value,
                                 &pb::Thread::tid)),
        timers_(static_cast<size_t>(process.timers_size())),
        inquiry_(*host.task, host.place, answers_of_process(timers_.size()),
                 calls_of_process(timers_.size())) {
    of_host_.ask(inquiry_);
    for (uint64_t i = 0; i < kSignals; ++i)
      inquiry_.call(SYS_rt_sigaction, {i + 1, 0, inquiry_.address_for(answers_.actions[i]), 8});
    for (uint64_t which = 0; which < 3; ++which)
      inquiry_.call(SYS_getitimer, {which, inquiry_.address_for(answers_.intervals[which])});
    inquiry_.call(SYS_prctl, {PR_GET_CHILD_SUBREAPER, inquiry_.address_for(answers_.subreaper)});
    inquiry_.call(SYS_prctl, {PR_GET_DUMPABLE}, &dumpable_);
    inquiry_.call(SYS_prctl, {PR_GET_THP_DISABLE}, &huge_pages_disabled_);
    inquiry_.call(SYS_prctl, {kGetDenyWriteExecute}, &deny_write_execute_);
    inquiry_.call(SYS_prctl, {kGetMemoryMerge}, &memory_merge_);
    inquiry_.call(SYS_arch_prctl,
                  {kGetXstatePermitted, inquiry_.address_for(answers_.xstate_permitted)});
    inquiry_.call(SYS_membarrier, {kMembarrierRegistrations}, &membarrier_);
    inquiry_.call(SYS_brk, {}, &brk_);  // cut to 32 bits, see MmLayout
    for (size_t i = 0; i < timers_.size(); ++i)
      inquiry_.call(SYS_timer_gettime,
                    {process.timers(static_cast<int>(i)).id(), inquiry_.address_for(timers_[i])});
    inquiry_.begin();
  }

  bool proceed() override {
    bool is_over = true;
    if_possible([&] { is_over = inquiry_.proceed(); });
    return is_over;
  }
  void finish() override {
    if_possible([this] {
      inquiry_.finish();
      answer();
      if (has_locked_) ask_what_is_locked_later();
    });
  }

 private:
  void ask_what_is_locked_later() {
    if (const auto flags = what_is_locked_later(asked_, process_))
      process_.set_locks_later(*flags);
    else
      context_.lacks(Pid{process_.pid()}, {}, "whether what is mapped later is locked",
                     "its program break could not be moved for a moment");
  }
  void if_possible(auto&& step) {
    if (failed_) return;
    try {
      step();
    } catch (const Error& error) {
      failed_ = true;
      const Pid pid{process_.pid()};
      context_.lacks(pid, {}, kInsideProcess.name, error.what());
      context_.lacks(pid, Tid{host_.tid()}, kInsideThread.name, error.what());
    }
  }

  void answer() {
    of_host_.answer(context_, Pid{process_.pid()}, host_);
    for (uint32_t i = 0; i < kSignals; ++i) add_action(i + 1, answers_.actions[i], process_);
    for (uint32_t which = 0; which < 3; ++which) {
      pb::IntervalTimer& out = *process_.add_interval_timers();
      out.set_which(which);
      out.set_value_ns(ns(answers_.intervals[which].it_value));
      out.set_interval_ns(ns(answers_.intervals[which].it_interval));
    }
    for (size_t i = 0; i < timers_.size(); ++i) {
      pb::PosixTimer& out = *process_.mutable_timers(static_cast<int>(i));
      out.set_value_ns(ns(timers_[i].it_value));
      out.set_interval_ns(ns(timers_[i].it_interval));
    }
    process_.set_xstate_permitted(answers_.xstate_permitted);
    process_.mutable_layout()->set_brk_low(static_cast<uint32_t>(brk_));
    process_.set_child_subreaper(answers_.subreaper != 0);
    if (dumpable_ >= 0) process_.set_dumpable(dumpable_ == 1);
    process_.set_thp_disabled(unless_refused(huge_pages_disabled_));
    process_.set_deny_write_execute(unless_refused(deny_write_execute_));
    process_.set_memory_merge(unless_refused(memory_merge_));
    process_.set_membarrier(unless_refused(membarrier_));
  }

  CaptureContext& context_;
  pb::Process& process_;
  Host asked_;
  bool has_locked_;
  pb::Thread& host_;
  bool failed_ = false;
  ProcessAnswers answers_{};
  std::vector<itimerspec> timers_;
  int32_t dumpable_ = 0, huge_pages_disabled_ = 0, deny_write_execute_ = 0, memory_merge_ = 0,
          brk_ = 0, membarrier_ = 0;
  ThreadQuestions of_host_;
  Inquiry inquiry_;
};

void capture_process(CaptureContext& context, const FrozenProcess& frozen, pb::Process& process) {
  list_timers(frozen.proc, process);
  const auto timers = static_cast<size_t>(process.timers_size());
  const size_t room = Inquiry::room_for(answers_of_process(timers), calls_of_process(timers));
  const uint32_t space = process.address_space();
  Host host = host_in(frozen, context, room, UnderSeccomp::kAsFiltersAllow);
  context.grounds.at(frozen.pid).space = space;
  if (!host.task) return context.lacks(frozen.pid, {}, kInsideProcess.name, host.why_not);
  host.place = context.questions.room(space, host.place, room);
  context.questions.add(space, host.place,
                        std::make_unique<ProcessQuestion>(context, host, frozen, process));
  context.asked.insert(host.task->tid());
}

// As good as told, where the thread cannot be asked: glibc has its number 16 bytes before the head
// of its list of robust futexes, and gives the kernel the address of both. 0: it is not there.
uint64_t tid_address_in_glibc(const StoppedTask& stopped) {
  constexpr uint64_t kDistance = 16;  // struct pthread: tid, pid, robust_prev, robust_head
  const Tid tid = stopped.task.tid;
  const int32_t own_number = innermost(stopped.status().text("NSpid"));
  const auto list = robust_list_of(tid);
  int32_t number = 0;
  const auto bytes = std::as_writable_bytes(std::span(&number, 1));
  if (own_number == 0 || !list || list->head < kDistance ||
      read_remote(tid, list->head - kDistance, bytes) != bytes.size() || number != own_number)
    return 0;
  return list->head - kDistance;
}

class ThreadQuestion : public Question {
 public:
  static constexpr size_t kAnswers = ThreadQuestions::kAnswers, kCalls = ThreadQuestions::kCalls;

  ThreadQuestion(CaptureContext& context, Pid pid, const Host& host, pb::Thread& thread)
      : context_(context),
        pid_(pid),
        thread_(thread),
        inquiry_(*host.task, host.place, kAnswers, kCalls) {
    questions_.ask(inquiry_);
    inquiry_.begin();
  }

  bool proceed() override { return inquiry_.proceed(); }  // one go is enough: nothing can fail
  void finish() override {
    try {
      inquiry_.finish();
      questions_.answer(context_, pid_, thread_);
    } catch (const Error& error) {
      context_.lacks(pid_, Tid{thread_.tid()}, kInsideThread.name, error.what());
    }
  }

 private:
  CaptureContext& context_;
  Pid pid_;
  pb::Thread& thread_;
  ThreadQuestions questions_;
  Inquiry inquiry_;
};

void capture_thread(CaptureContext& context, const StoppedTask& stopped, pb::Thread& thread) {
  if (context.asked.erase(stopped.task.tid)) return;
  const size_t room = Inquiry::room_for(ThreadQuestion::kAnswers, ThreadQuestion::kCalls);
  Host host = host_of(stopped, context, room);
  const Pid pid = stopped.process.pid;
  if (!host.task || !host.place.filters.empty())  // which may keep it from being asked
    thread.set_clear_child_tid(tid_address_in_glibc(stopped));
  thread.set_keyrings_untold(!host.task);
  if (!host.task)
    return context.lacks(pid, stopped.task.tid,
                         thread.clear_child_tid() ? "alternate stack"
                                                  : "alternate stack and address of the thread id",
                         host.why_not);
  const uint32_t space = context.grounds.at(pid).space;
  host.place = context.questions.room(space, host.place, room);
  context.questions.add(space, host.place,
                        std::make_unique<ThreadQuestion>(context, pid, host, thread));
}

// ---- Restoring ----------------------------------------------------------------------------------

timeval to_timeval(uint64_t ns) {
  return {static_cast<time_t>(ns / 1'000'000'000),
          static_cast<suseconds_t>(ns % 1'000'000'000 / 1000)};
}
timespec to_timespec(uint64_t ns) {
  return {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
}

KernelAction kernel_action(const pb::SignalAction& action) {
  return {action.handler(), action.flags(), action.restorer(), action.mask()};
}

void restore_actions(const pb::Process& process, Seed& seed) {
  for (const pb::SignalAction& action : process.signal_actions()) {
    constexpr uint32_t kNotNow[] = {SIGKILL, SIGSTOP, SIGTRAP};
    if (std::ranges::count(kNotNow, action.signal())) continue;
    const KernelAction value = kernel_action(action);
    seed.add(fmt::format("set the action of signal {}", action.signal()), SYS_rt_sigaction,
             {action.signal(), seed.put_value(value), 0, 8});
  }
}

// "signal/tid.4711", as we saw it: whom it signals, by the number that the tree knows.
int32_t signalled_thread(const pb::Process& process, const pb::PosixTimer& timer) {
  const size_t at = timer.notify().find("tid.");
  if (at == std::string::npos) return 0;
  const auto tid =
      parse_number<int32_t>(std::string_view(timer.notify()).substr(at + 4)).value_or(0);
  const auto thread = std::ranges::find(process.threads(), tid, &pb::Thread::tid);
  return thread == process.threads().end() ? tid : own_number(*thread);
}

// The kernel numbers timers in the order in which they are made, also those that are gone.
void create_timer(const pb::Process& process, const pb::PosixTimer& timer, uint32_t& next,
                  Seed& seed) {
  constexpr uint32_t kMaxGap = 100'000;
  if (timer.id() - next > kMaxGap)
    throw Error(fmt::format("cannot make timer {}", timer.id()), "its number is too high");
  const bool none = timer.notify().starts_with("none");
  struct {
    uint64_t value;
    int32_t signal, notify, tid, padding[11];
  } event{};
  static_assert(sizeof event == 64);  // sigevent_t
  event.value = timer.value();
  event.signal = static_cast<int32_t>(timer.signal());
  event.tid = signalled_thread(process, timer);
  event.notify = none ? SIGEV_NONE : event.tid ? SIGEV_THREAD_ID : SIGEV_SIGNAL;
  for (;; ++next) {
    const uint64_t at = seed.put_value(event), out = seed.put_value(int32_t{0});
    seed.add(fmt::format("make timer {}", timer.id()), SYS_timer_create,
             {static_cast<uint64_t>(timer.clock()), at, out});
    if (next == timer.id()) break;
    seed.add("remove a timer", SYS_timer_delete, {next});
  }
  ++next;
  const itimerspec value{to_timespec(timer.interval_ns()), to_timespec(timer.value_ns())};
  if (timer.value_ns())
    seed.add(fmt::format("set timer {}", timer.id()), SYS_timer_settime,
             {timer.id(), 0, seed.put_value(value)});
}

void restore_process(RestoreContext& context, const pb::Process& process, Seed& seed) {
  restore_actions(process, seed);
  seed.add("tell whether it adopts orphans", SYS_prctl,
           {PR_SET_CHILD_SUBREAPER, process.child_subreaper()});
  if (process.thp_disabled()) seed.add("disable huge pages", SYS_prctl, {PR_SET_THP_DISABLE, 1});
  if (process.deny_write_execute())
    seed.add("deny memory that is written and executed", SYS_prctl,
             {kSetDenyWriteExecute, process.deny_write_execute()});
  if (process.memory_merge()) seed.add("merge memory", SYS_prctl, {kSetMemoryMerge, 1});
  // The kernel gives it to whoever asks, but not unasked: AMX.
  constexpr uint64_t kTiles = 18;
  if (process.xstate_permitted() >> kTiles & 1)
    seed.add("ask for AMX", SYS_arch_prctl, {kRequestXstate, kTiles});
  if (is_first_to_share(context.snapshot, process, kMemory))
    for (uint32_t commands = process.membarrier(); commands; commands &= commands - 1)
      seed.add("register for membarrier", SYS_membarrier, {commands & -commands});
  if (process.locks_later() && is_first_to_share(context.snapshot, process, kMemory))
    seed.add_if_allowed("lock what is mapped later", SYS_mlockall, {process.locks_later()});
  context.perform(seed, process.pid());
}

void restore_thread(RestoreContext&, const pb::Process&, const pb::Thread& thread, Seed& seed) {
  if (thread.clear_child_tid() || thread.has_alternate_stack())
    seed.add("set the address of its number", SYS_set_tid_address, {thread.clear_child_tid()});
  if (!thread.has_alternate_stack()) return void(seed.perform());  // it could not be asked
  const pb::AlternateStack& from = thread.alternate_stack();
  constexpr uint32_t kOnStack = 1;  // SS_ONSTACK: it is in use, which follows from the registers
  const KernelStack stack{from.address(), static_cast<int32_t>(from.flags() & ~kOnStack), 0,
                          from.size()};
  if (thread.memory_policy()) {
    const uint64_t nodes = thread.memory_nodes();
    seed.add("set where it gets memory from", SYS_set_mempolicy,
             {thread.memory_policy(), seed.put_value(nodes), 65});
  }
  seed.add("set the alternate stack", SYS_sigaltstack, {seed.put_value(stack), 0});
  if (thread.machine_check_policy() != PR_MCE_KILL_DEFAULT)
    seed.add("set what becomes of it when memory fails", SYS_prctl,
             {PR_MCE_KILL, PR_MCE_KILL_SET, thread.machine_check_policy()});
  if (thread.tsc_mode() == PR_TSC_SIGSEGV)
    seed.add("forbid rdtsc", SYS_prctl, {PR_SET_TSC, PR_TSC_SIGSEGV});
  seed.perform();
}

}  // namespace

const ProcessRestorer kInsideRestorer{"signal actions and timers", restore_process};
const ThreadRestorer kInsideThreadRestorer{"alternate stack", restore_thread};

void restore_trap_action(const pb::Process& process, Seed& seed) {
  const auto found =
      std::ranges::find(process.signal_actions(), uint32_t{SIGTRAP}, &pb::SignalAction::signal);
  if (found == process.signal_actions().end()) return;
  const uint64_t value = seed.put_value(kernel_action(*found));
  seed.call_silently("set the action of SIGTRAP", SYS_rt_sigaction, {SIGTRAP, value, 0, 8});
}

// A periodic ITIMER_REAL is set anew only as its signal is taken (dequeue_signal(),
// kernel/signal.c): while that waits, nothing is left of it, and the signal alone would not start
// it here. Others go on by themselves: nothing is left of those of processor time if the program
// has stopped them, which leaves them their interval, and timer_gettime(2) tells when a POSIX timer
// is due next.
uint64_t time_left(const pb::IntervalTimer& timer) {
  const bool waits_for_signal = timer.which() == ITIMER_REAL && !timer.value_ns();
  return waits_for_signal ? timer.interval_ns() : timer.value_ns();
}

void start_timers(const pb::Process& process, Seed& seed) {
  uint32_t next = 0;
  for (const pb::PosixTimer& timer : process.timers()) create_timer(process, timer, next, seed);
  for (const pb::IntervalTimer& timer : process.interval_timers()) {
    const itimerval value{to_timeval(timer.interval_ns()), to_timeval(time_left(timer))};
    if (timer.value_ns() || timer.interval_ns())
      seed.add("set an interval timer", SYS_setitimer, {timer.which(), seed.put_value(value), 0});
  }
  seed.perform();
}

const ProcessResource kInsideProcess{"signal actions and timers", capture_process,
                                     Means::kQuestions};
const ThreadResource kInsideThread{"alternate stack", capture_thread, Means::kQuestions};

}  // namespace snapgdb
