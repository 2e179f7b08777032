#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/debug_registers.h"
#include "gdbstub/agent_expression.h"
#include "gdbstub/live/live_target.h"

namespace snapgdb::gdbstub {
namespace {

constexpr std::chrono::milliseconds kPatience{10'000};

bool is_end(const Event& event) {
  return event.kind == Event::Kind::kExited || event.kind == Event::Kind::kKilled;
}

}  // namespace

// ---- Asking -------------------------------------------------------------------------------------

// Threads take turns: one that stops again and again does not keep the others from being heard.
// Ends of processes come in their order: a parent that has waited for its child ends after it.
std::optional<Event> LiveTarget::next_event() {
  collect();
  if (events_.empty()) return std::nullopt;
  auto chosen = std::ranges::find_if(
      events_, [&](const Event& event) { return event.thread > last_reported_; });
  if (chosen == events_.end()) chosen = events_.begin();
  if (is_end(*chosen)) chosen = std::ranges::find_if(events_, is_end);
  Event event = std::move(*chosen);
  events_.erase(chosen);
  last_reported_ = event.thread;
  return event;
}

void LiveTarget::collect() {
  std::array<signalfd_siginfo, 16> signals;
  while (::read(child_signals_.get(), signals.data(), sizeof signals) > 0) continue;
  uint64_t times = 0;
  if (looks_now_and_then_) (void)!::read(timer_.get(), &times, sizeof times);
  for (size_t left = threads_.size() + 1;; --left) {
    if (left == 0) return collect_later();
    const auto real = Tracee::next_to_report();
    if (!real) break;
    take(*real);
    // Who waits for a process goes on when we have heard of its end: the client comes first.
    if (!events_.empty() && is_end(events_.back())) break;
  }
  pass_breakpoints();
}

// Those that go step by step have the next report at once. The others get a turn, and so does the
// client.
void LiveTarget::collect_later() {
  std::vector<ThreadId> all;
  for (const auto& [id, thread] : threads_) all.push_back(id);
  for (const ThreadId id : all)
    if (const auto each = threads_.find(id);
        each != threads_.end() && !each->second.task.is_stopped()) {
      each->second.task.poll_stop();
      take_if_any(each->second);
    }
  pass_breakpoints();
  ::kill(::getpid(), SIGCHLD);
}

void LiveTarget::take(Tid real) {
  if (const auto known = by_real_.find(real); known != by_real_.end()) {
    Thread& thread = threads_.at(known->second);
    // One that stood still until it was killed, or another one called execve(2): that one has its
    // number now.
    thread.task.set_status({});
    thread.task.poll_stop();
    return take(thread);
  }
  if (real.value == tree_->keeper().value)
    throw Error("the restored tree is gone", "the process that keeps it was killed");
  Tracee task = Tracee::adopt(real, Tracee::kDebugged);
  task.poll_stop();
  if (task.is_stopped() && task.status().report() == WaitStatus::Report::kExec)
    return take_new_program(std::move(task));
  if (!task.status().gone()) early_.insert_or_assign(real, std::move(task));
}

// Of a process whose first thread had ended before we traced it: whoever calls execve(2) gets that
// one's number.
void LiveTarget::take_new_program(Tracee task) {
  const auto former = by_real_.find(Tid{static_cast<pid_t>(task.event_message())});
  if (former == by_real_.end()) return;
  auto caller = threads_.extract(former->second);
  by_real_.erase(former);
  Thread& thread = caller.mapped();
  thread.task.set_status(WaitStatus::exited());
  thread.task = std::move(task);
  thread.id.tid = leader_of(thread.id.pid);
  caller.key() = thread.id;
  by_real_[thread.task.tid()] = thread.id;
  take(threads_.insert(std::move(caller)).position->second);
}

// ---- What a report means ------------------------------------------------------------------------

void LiveTarget::take(Thread& thread) {
  const Asked asked = std::exchange(thread.asked, Asked::kNothing);
  while_alive(thread, [&] {
    let_trap_come(thread);
    if (thread.task.status().gone()) return lost(thread, asked);
    if (thread.task.is_stopped()) took_stop(thread, asked);
  });
}

// A stop that was asked for comes before a trap that is there already: that of a step over a system
// call which the asking has ended always, a breakpoint's sometimes. What it tells is of now, and
// its place in the program is not known before. Not one instruction runs for it.
void LiveTarget::let_trap_come(Thread& thread) {
  const WaitStatus status = thread.task.status();
  if (!status.stopped() || status.report() != WaitStatus::Report::kStop ||
      status.job_control_stop())
    return;
  const auto is_trap = [](const siginfo_t& info) {
    return info.si_signo == SIGTRAP && info.si_code > 0;
  };
  if (std::ranges::none_of(thread.task.pending(false), is_trap)) return;
  thread.task.resume_if_alive(0);
  thread.task.wait_stop(kPatience);
}

// Who was told to stop silently will come to the same breakpoint again, or has made its step.
void LiveTarget::took_stop(Thread& thread, Asked asked) {
  const ThreadId id = thread.id;
  if (auto event = what_happened(thread)) {
    const bool repeats =
        event->kind == Event::Kind::kSoftwareBreakpoint || event->kind == Event::Kind::kStepped;
    if (asked != Asked::kHalt || !repeats) events_.push_back(std::move(*event));
    if (asked == Asked::kInterrupt) interrupt_is_due_ = true;
    return;
  }
  const bool passes = std::exchange(thread.passes, false);
  const bool prints = std::exchange(thread.prints, false);
  if (passes && (asked == Asked::kNothing || asked == Asked::kPause)) {
    if (prints) perform_commands(thread);
    return passing_.push_back(id);
  }
  switch (asked) {
    case Asked::kNothing:
      return go(thread);
    case Asked::kHalt:
      return;
    case Asked::kPause:
      return paused_.push_back(id);
    case Asked::kStop:
      events_.push_back({.kind = Event::Kind::kStopped, .thread = id});
      return;
    case Asked::kInterrupt:
      events_.push_back({.kind = Event::Kind::kSignal, .thread = id, .signal = SIGINT});
      return;
  }
}

// nullopt: nothing that the client should know. The thread may run again then, or be gone.
std::optional<Event> LiveTarget::what_happened(Thread& thread) {
  using Report = WaitStatus::Report;
  struct Row {
    Report report;
    std::optional<Event> (LiveTarget::*handle)(Thread&);
  };
  constexpr Row kRows[] = {
      {Report::kSignal, &LiveTarget::on_signal},
      {Report::kSystemCall, &LiveTarget::on_system_call},
      {Report::kFork, &LiveTarget::on_new_process},
      {Report::kVfork, &LiveTarget::on_new_process},
      {Report::kVforkDone, &LiveTarget::on_vfork_done},
      {Report::kClone, &LiveTarget::on_new_thread},
      {Report::kExec, &LiveTarget::on_exec},
      {Report::kStop, &LiveTarget::on_stop},
  };
  const Report report = thread.task.status().report();
  return (this->*std::ranges::find(kRows, report, &Row::report)->handle)(thread);
}

// Where nothing can be executed, a breakpoint is met by the fault of going there. Debuggers place
// one on the stack, for a called function to return to.
bool LiveTarget::fails_at_breakpoint(Thread& thread, int signal) {
  if (signal != SIGSEGV && signal != SIGILL) return false;
  return process(thread.id.pid).memory->breakpoints(thread.task.registers().rip) != nullptr;
}

// As the kernel tells of a signal that a debugger has delivered: not as of tkill(2), by which we
// have sent it, from outside of the namespace.
void LiveTarget::take_as_delivered(Thread& thread) {
  thread.unreported = 0;
  siginfo_t info = thread.task.siginfo();
  if (info.si_code != SI_TKILL || info.si_pid != 0) return;
  info.si_code = SI_USER;
  thread.task.set_siginfo(info);
}

std::optional<Event> LiveTarget::on_signal(Thread& thread) {
  const int signal = thread.task.status().signal();
  if (signal == SIGTRAP && thread.task.siginfo().si_code > 0) return on_trap(thread);
  const bool known = thread.unreported == signal;
  if (known) take_as_delivered(thread);
  thread.trapped = fails_at_breakpoint(thread, signal);
  const bool passes =
      wishes_.passed_signals.contains(signal) && !thread.wanted.step && !thread.trapped;
  if (known || passes) {
    thread.deliver = signal;
    return std::nullopt;
  }
  return Event{.kind = Event::Kind::kSignal, .thread = thread.id, .signal = signal};
}

// si_code tells why (arch/x86/kernel/traps.c): of int3 the kernel sends SI_KERNEL.
std::optional<Event> LiveTarget::on_trap(Thread& thread) {
  const siginfo_t info = thread.task.siginfo();
  if (info.si_code == SI_KERNEL) return on_breakpoint(thread);
  Process& owner = process(thread.id.pid);
  if (const auto met = met_by(thread, owner)) {
    const bool is_code = met->kind == BreakpointKind::kHardware;
    return Event{.kind = is_code ? Event::Kind::kHardwareBreakpoint : Event::Kind::kWatchpoint,
                 .thread = thread.id,
                 .signal = SIGTRAP,
                 .value = met->address,
                 .watch = met->kind};
  }
  return on_step_made(thread);
}

std::optional<Event> LiveTarget::on_step_made(Thread& thread) {
  if (thread.wanted.step) return on_step(thread);
  if (std::exchange(thread.steps_for_us, false)) return std::nullopt;
  return Event{.kind = Event::Kind::kSignal, .thread = thread.id, .signal = SIGTRAP};
}

std::optional<DebugRegisters::Met> LiveTarget::met_by(Thread& thread, Process& owner) {
  if (owner.debug_registers.empty()) return std::nullopt;
  if (!debug_registers_stop()) return changed_by(thread, owner);
  const uint64_t status = thread.task.debug_register(DebugRegisters::kStatus);
  thread.task.set_debug_register(DebugRegisters::kStatus, 0);
  return owner.debug_registers.met(status);
}

// Threads that go step by step do so at once, and a change is seen after a step of any of them. On
// a stack, or in thread-local memory, it is taken for that of the thread to which that belongs, and
// told of at the end of its own step: clients drop what another one is said to have done to a
// local variable.
std::optional<DebugRegisters::Met> LiveTarget::changed_by(Thread& thread, Process& owner) {
  auto own = std::exchange(thread.changed, std::nullopt);
  const auto now = owner.debug_registers.changed(owner.reader());
  if (!now) return own;
  const auto home = std::ranges::find_if(owner.homes, [&](const Process::Home& each) {
    return each.low <= now->address && now->address < each.high;
  });
  const auto at_home = home == owner.homes.end() ? threads_.end() : threads_.find(home->of);
  const auto steps = [](const Thread& other) {
    return !other.task.is_stopped() && (other.steps_for_us || other.wanted.step);
  };
  Thread& whose = at_home != threads_.end() && steps(at_home->second) ? at_home->second : thread;
  if (&whose == &thread && !own) return now;
  whose.changed = now;
  return own;
}

// Not of a mapping in which several threads have theirs, or that of one which runs.
void LiveTarget::note_home(Pid pid, uint64_t address) {
  const auto mapping = mapping_at_or_after(pid, address);
  if (!mapping || address < mapping->start) return;
  const auto is_in_it = [&](uint64_t at) { return mapping->start <= at && at < mapping->end; };
  std::vector<ThreadId> here;
  for (Thread* each : threads_of(pid)) {
    if (!each->task.is_stopped()) continue;
    while_alive(*each, [&] {
      const user_regs_struct registers = each->task.registers();
      if (is_in_it(registers.rsp) || is_in_it(registers.fs_base)) here.push_back(each->id);
    });
  }
  std::vector<Process::Home>& homes = process(pid).homes;
  std::erase_if(homes, [&](const Process::Home& home) {
    return home.low < mapping->end && mapping->start < home.high;
  });
  if (here.size() == 1) homes.push_back({mapping->start, mapping->end, here.front()});
}

std::optional<Event> LiveTarget::on_breakpoint(Thread& thread) {
  user_regs_struct registers = thread.task.registers();
  // One of the program's own was below it, and that is done.
  if (thread.goes_past == registers.rip - 1) return on_step_made(thread);
  const Process& owner = process(thread.id.pid);
  const auto* codes = owner.memory->breakpoints(registers.rip - 1);
  const bool is_over = !codes && owner.memory->was_breakpoint(registers.rip - 1);
  if (!codes && !is_over)  // one of the program's own
    return Event{.kind = Event::Kind::kSignal, .thread = thread.id, .signal = SIGTRAP};
  --registers.rip;
  thread.task.set_registers(registers);
  if (is_over) return std::nullopt;
  const auto holds_here = [&](const std::string& condition) {
    return holds(condition, *this, thread.id);
  };
  thread.prints = false;
  thread.trapped = true;
  for (const auto& [kind, code] : *codes) {
    if (!code.conditions.empty() && std::ranges::none_of(code.conditions, holds_here)) continue;
    if (code.commands.empty())
      return Event{.kind = kind == BreakpointKind::kHardware ? Event::Kind::kHardwareBreakpoint
                                                             : Event::Kind::kSoftwareBreakpoint,
                   .thread = thread.id,
                   .signal = SIGTRAP};
    thread.prints = true;
  }
  thread.passes = true;
  return std::nullopt;
}

// Once it is certain that the thread goes past the breakpoint: it would come to it again otherwise.
void LiveTarget::perform_commands(const Thread& thread) {
  const uint64_t at = thread.task.registers().rip;
  if (const auto* codes = process(thread.id.pid).memory->breakpoints(at))
    for (const auto& [kind, code] : *codes)
      for (const std::string& command : code.commands)
        printed_ += perform(command, *this, thread.id);
}

std::optional<Event> LiveTarget::on_step(Thread& thread) {
  const uint64_t pc = thread.task.registers().rip;
  if (pc >= thread.wanted.range_start && pc < thread.wanted.range_end) return std::nullopt;
  return Event{.kind = Event::Kind::kStepped, .thread = thread.id, .signal = SIGTRAP};
}

std::optional<Event> LiveTarget::on_system_call(Thread& thread) {
  const auto caught = wishes_.system_calls.find(thread.id.pid);
  const uint64_t number = thread.task.registers().orig_rax;
  if (caught == wishes_.system_calls.end() ||
      (!caught->second.empty() && !caught->second.contains(number)))
    return std::nullopt;
  const bool enters = thread.task.enters_system_call();
  return Event{.kind = enters ? Event::Kind::kSyscallEntry : Event::Kind::kSyscallReturn,
               .thread = thread.id,
               .signal = SIGTRAP,
               .value = number};
}

// Nothing but a stop that was asked for, job control, or the end of it. The stop of the snapshot
// comes with its signal, which may be still to come.
std::optional<Event> LiveTarget::on_stop(Thread& thread) {
  if (thread.task.status().job_control_stop()) {
    const user_regs_struct here = thread.task.registers();
    if (!thread.job_stop) thread.job_stop = {here.rip, here.rsp};
    thread.job_stop->is_left = false;
  } else if (thread.unreported != SIGSTOP) {
    thread.job_stop.reset();
  }
  return std::nullopt;
}

std::optional<Event> LiveTarget::on_vfork_done(Thread& thread) {
  thread.vfork_child.reset();
  if (std::exchange(thread.lends_memory, false)) process(thread.id.pid).memory->cover_all();
  if (!wishes_.vforks) return std::nullopt;
  return Event{.kind = Event::Kind::kVforkDone, .thread = thread.id, .signal = SIGTRAP};
}

// ---- New ones -----------------------------------------------------------------------------------

// The child that the parent's report is about; nullopt: it was killed already.
std::optional<Tracee> LiveTarget::newborn(const Thread& parent) {
  const Tid real{static_cast<pid_t>(parent.task.event_message())};
  const auto early = early_.extract(real);
  Tracee child = early.empty() ? Tracee::adopt(real, Tracee::kDebugged) : std::move(early.mapped());
  if (!child.wait_stop(kPatience)) return std::nullopt;
  return child;
}

std::optional<Event> LiveTarget::on_new_thread(Thread& parent) {
  auto task = newborn(parent);
  if (!task) return std::nullopt;
  const ThreadId id{parent.id.pid, number_of(task->tid()).tid};
  Thread& thread = add(id, std::move(*task));
  thread.wanted = {};
  if (wishes_.threads) {
    events_.push_back({.kind = Event::Kind::kThreadCreated, .thread = id, .signal = SIGTRAP});
    return std::nullopt;
  }
  if (wishes_.clones.contains(parent.id))
    return Event{.kind = Event::Kind::kClone, .thread = parent.id, .signal = SIGTRAP, .child = id};
  if (pausing_)
    paused_.push_back(id);
  else if (!halting_)
    go(thread);
  return std::nullopt;
}

std::optional<Event> LiveTarget::on_new_process(Thread& parent) {
  const bool is_vfork = parent.task.status().report() == WaitStatus::Report::kVfork;
  auto task = newborn(parent);
  if (!task) return std::nullopt;
  const ThreadId id = number_of(task->tid());
  if (is_vfork) parent.vfork_child = id.pid;
  const auto& memory = process(parent.id.pid).memory;
  Process child{Pid{task->tid().value},
                is_vfork ? memory : std::shared_ptr(memory->of_child(task->tid())),
                {}};
  processes_.emplace(id.pid, std::move(child));
  add(id, std::move(*task));
  if (is_vfork ? !wishes_.vforks : !wishes_.forks) {
    if (is_vfork) process(id.pid).memory->uncover_all();
    parent.lends_memory = is_vfork;
    detach(id.pid);
    return std::nullopt;
  }
  return Event{.kind = is_vfork ? Event::Kind::kVfork : Event::Kind::kFork,
               .thread = parent.id,
               .signal = SIGTRAP,
               .child = id};
}

// The thread has the number of its process now; of the others nothing is left (ptrace(2),
// "execve(2) under ptrace").
std::optional<Event> LiveTarget::on_exec(Thread& thread) {
  const ThreadId id{thread.id.pid, leader_of(thread.id.pid)};
  if (thread.id != id) throw Error("cannot follow an execve", "it was told of by another thread");
  for (Thread* each : threads_of(id.pid))
    if (each->id != id) {
      by_real_.erase(each->task.tid());
      each->task.set_status(WaitStatus::exited());
    }
  std::erase_if(threads_,
                [&](const auto& each) { return each.first.pid == id.pid && each.first != id; });
  drop_events([&](const Event& event) { return event.thread.pid == id.pid; });
  end_vfork(id.pid);
  Process& owner = process(id.pid);
  owner.memory = std::make_shared<LiveMemory>(thread.task.tid());
  owner.debug_registers = {};
  owner.homes.clear();
  thread.debug_generation = 0;
  thread.restart.reset();
  if (!wishes_.execs) return std::nullopt;
  return Event{.kind = Event::Kind::kExec,
               .thread = id,
               .signal = SIGTRAP,
               .path = executable(id.pid).value_or("")};
}

// ---- Ends ---------------------------------------------------------------------------------------

// The last thread's end is that of its process.
void LiveTarget::lost(Thread& thread, Asked asked) {
  const ThreadId id = thread.id;
  const int status = thread.task.status().raw();
  by_real_.erase(thread.task.tid());
  threads_.erase(id);
  drop_events([&](const Event& event) { return event.thread == id; });
  const auto code = static_cast<uint64_t>(WIFEXITED(status) ? WEXITSTATUS(status) : 0);
  if (!threads_of(id.pid).empty()) {
    if (wishes_.threads || wishes_.exits.contains(id))
      events_.push_back({.kind = Event::Kind::kThreadExited, .thread = id, .value = code});
    if (asked == Asked::kInterrupt) interrupt();
    return;
  }
  processes_.erase(id.pid);
  end_vfork(id.pid);
  Event event{.kind = Event::Kind::kExited, .thread = {id.pid, {}}, .value = code};
  if (WIFSIGNALED(status)) event.kind = Event::Kind::kKilled, event.signal = WTERMSIG(status);
  events_.push_back(std::move(event));
}

}  // namespace snapgdb::gdbstub
