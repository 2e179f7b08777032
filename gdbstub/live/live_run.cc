#include <signal.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/linux/debug_registers.h"
#include "gdbstub/live/live_target.h"

namespace snapgdb::gdbstub {
namespace {

constexpr std::chrono::milliseconds kPatience{10'000};

// The first one may have ended before the others.
Tid living_task_of(Pid real) {
  const auto proc = ProcDirectory::of_if_alive(real);
  for (const Tid tid : proc ? proc->tasks() : std::vector<Tid>{})
    if (const auto stat = stat_of_if_alive(tid); stat && stat->state != 'Z') return tid;
  return leader_of(real);
}

bool fits(const ResumeAction& action, ThreadId thread) {
  return (!action.pid || *action.pid == thread.pid) && (!action.tid || *action.tid == thread.tid);
}

// The kernel lets nobody but root watch what is its own, and that not before a thread goes on.
bool is_of_user(const Breakpoint& breakpoint) {
  constexpr uint64_t kEnd = 0x7ffffffff000;  // TASK_SIZE_MAX, with four levels of page tables
  return breakpoint.address < kEnd && breakpoint.size <= kEnd - breakpoint.address;
}

}  // namespace

// ---- Letting run --------------------------------------------------------------------------------

// It has come to a breakpoint that the client has removed since, before it was told of it.
bool LiveTarget::is_of_removed(const Event& event, const Thread& thread) {
  return event.kind == Event::Kind::kSoftwareBreakpoint &&
         !process(thread.id.pid).memory->breakpoints(thread.task.registers().rip);
}

void LiveTarget::resume(std::span<const ResumeAction> actions, std::span<const ThreadId> kept) {
  const auto stays = [&](const ThreadId& id) {
    return std::ranges::find(events_, id, &Event::thread) != events_.end() ||
           std::ranges::find(events_, id, &Event::child) != events_.end() ||
           std::ranges::find(kept, id) != kept.end();
  };
  for (auto& [id, thread] : threads_) {
    const auto action = std::ranges::find_if(
        actions, [&](const ResumeAction& each) { return fits(each, thread.id); });
    if (action == actions.end() || !thread.task.is_stopped()) continue;
    std::erase_if(events_, [&](const Event& event) {
      return event.thread == id && (is_outrun(event, *action) || is_of_removed(event, thread));
    });
    if (stays(id)) continue;
    thread.wanted = *action;
    deliver_on_resume(thread, action->signal);
    go(thread);
  }
  const auto stopped = std::ranges::count_if(
      threads_, [](const auto& each) { return each.second.task.is_stopped(); });
  const bool any_runs = stopped < std::ssize(threads_);
  if (!any_runs && events_.empty()) events_.push_back({Event::Kind::kNothingRuns});
  look_now_and_then(any_runs && stopped > 0);
  if (std::exchange(interrupt_is_due_, false)) interrupt();
}

// The kernel does not tell of the end of a first thread while others of its process are there:
// where those stand still, nothing would ever be heard again.
void LiveTarget::look_now_and_then(bool wanted) {
  if (std::exchange(looks_now_and_then_, wanted) == wanted) return;
  constexpr timespec kEach{.tv_sec = 0, .tv_nsec = 100'000'000};
  const itimerspec time = wanted ? itimerspec{kEach, kEach} : itimerspec{};
  if (::timerfd_settime(timer_.get(), 0, &time, nullptr) != 0) throw_errno("cannot set a timer");
}

// The kernel takes a signal only where it had one to deliver; elsewhere the thread has to be sent
// it, and the client knows of it already. So it has for a stop of job control to end.
void LiveTarget::deliver_on_resume(Thread& thread, int signal) {
  if (signal == 0) return;
  const bool ends_job_stop = signal == SIGCONT && thread.job_stop;
  if (thread.task.signal_on_its_way() && !ends_job_stop) {
    thread.deliver = signal;
    return;
  }
  if (ends_job_stop) thread.job_stop.reset();
  thread.unreported = signal;
  ::syscall(SYS_tgkill, process(thread.id.pid).real.value, thread.task.tid().value, signal);
}

// A thread that job control has stopped runs only from elsewhere than where it stands: where the
// client has made it call a function.
bool LiveTarget::stays_stopped(Thread& thread) {
  if (!thread.job_stop) return false;
  bool is_there = false;
  while_alive(thread, [&] {
    const user_regs_struct now = thread.task.registers();
    is_there = now.rip == thread.job_stop->rip && now.rsp == thread.job_stop->rsp;
  });
  return is_there;
}

void LiveTarget::go(Thread& thread) {
  const bool stays = stays_stopped(thread);
  if (thread.task.status().job_control_stop()) {
    if (stays || !thread.job_stop) return thread.task.listen_if_alive();
    thread.job_stop->is_left = true;
  } else if (stays && thread.job_stop->is_left) {
    thread.task.interrupt_if_alive();  // back into the stop, before its first instruction
  }
  if (thread.restart)
    while_alive(thread, [&] {
      const user_regs_struct now = thread.task.registers();
      const user_regs_struct& actual = thread.restart->actual;
      if (now.rip == actual.rip && now.rsp == actual.rsp) thread.restart.reset();
    });
  load_debug_registers(thread);
  thread.moved = thread.trapped = false;
  const int signal = std::exchange(thread.deliver, 0);
  thread.steps_for_us = !thread.wanted.step && is_watched_step_by_step(process(thread.id.pid));
  const bool steps = thread.wanted.step || thread.steps_for_us;
  const Tracee::Until until = steps ? Tracee::Until::kNextInstruction
                              : wishes_.system_calls.contains(thread.id.pid)
                                  ? Tracee::Until::kNextSystemCall
                                  : Tracee::Until::kNextReport;
  thread.task.resume_if_alive(signal, until);
}

bool LiveTarget::is_watched_step_by_step(const Process& owner) const {
  return owner.debug_registers.watches_memory() && !debug_registers_stop();
}

// They belong to each thread, and a new one has none.
void LiveTarget::load_debug_registers(Thread& thread) {
  const Process& owner = process(thread.id.pid);
  if (thread.debug_generation == owner.debug_generation) return;
  if (thread.debug_generation == 0 && owner.debug_registers.empty()) return;
  while_alive(thread, [&] {
    thread.task.set_debug_register(DebugRegisters::kControl, 0);
    const auto addresses = owner.debug_registers.addresses();
    for (int i = 0; i < DebugRegisters::kAddresses; ++i)
      thread.task.set_debug_register(i, addresses[static_cast<size_t>(i)]);
    thread.task.set_debug_register(DebugRegisters::kControl, owner.debug_registers.control());
    thread.debug_generation = owner.debug_generation;
  });
}

// ---- Stopping -----------------------------------------------------------------------------------

bool LiveTarget::runs(ThreadId id) const {
  const auto thread = threads_.find(id);
  return thread != threads_.end() && !thread->second.task.is_stopped();
}

// A thread that was killed while it stood still (by exit_group(2) of another one) has its end to
// tell of yet.
bool LiveTarget::stands_still() const {
  const auto stands = [&](const Thread& thread) {
    if (!thread.task.is_stopped()) return has_exited(thread);
    const auto stat = stat_of_if_alive(thread.task.tid());
    return stat && (stat->state == 't' || stat->state == 'T');
  };
  return events_.empty() &&
         std::ranges::all_of(threads_, [&](const auto& each) { return stands(each.second); });
}

void LiveTarget::ask(Thread& thread, Asked why) {
  if (thread.asked == Asked::kNothing) thread.task.interrupt_if_alive();
  if (thread.asked == Asked::kInterrupt) interrupt_is_due_ = true;
  thread.asked = why;
}

void LiveTarget::stop(std::optional<Pid> pid, std::optional<Tid> tid) {
  for (auto& [id, thread] : threads_)
    if (fits({pid, tid}, id) && !thread.task.is_stopped()) ask(thread, Asked::kStop);
}

void LiveTarget::interrupt() {
  for (auto& [id, thread] : threads_)
    if (!thread.task.is_stopped() && !thread.vfork_child && !has_exited(thread))
      return ask(thread, Asked::kInterrupt);
}

// A first thread that has exited before the others is there, but does nothing any more.
void LiveTarget::await(Thread& thread, std::chrono::milliseconds patience) {
  constexpr std::chrono::milliseconds kLook{20};
  for (auto waited = kLook; !thread.task.wait_stop(kLook); waited += kLook) {
    if (thread.task.status().gone() || waited >= patience) return;
    const auto stat = stat_of_if_alive(thread.task.tid());
    if (!stat || stat->state == 'Z') return;
  }
}

void LiveTarget::halt() {
  halting_ = true;
  std::set<ThreadId> told;
  const auto tell_all = [&] {
    for (auto& [id, thread] : threads_)
      if (!thread.task.is_stopped() && !thread.vfork_child && told.insert(id).second)
        ask(thread, Asked::kHalt);
  };
  tell_all();
  // What one of them reports may bring new ones, or take others away.
  const auto awaited = [&] {
    return std::ranges::find_if(threads_, [](const auto& each) {
      return each.second.asked != Asked::kNothing && !each.second.task.is_stopped();
    });
  };
  for (auto at = awaited(); at != threads_.end(); at = awaited()) {
    await(at->second, kPatience);
    if (at->second.task.is_stopped() || at->second.task.status().gone())
      take(at->second);
    else
      at->second.asked = Asked::kNothing;  // dead, or deep in the kernel: it stops when it can
    if (std::exchange(vfork_ended_, false)) tell_all();
  }
  halting_ = false;
}

// Also before the kernel tells of it.
void LiveTarget::end_vfork(Pid child) {
  for (auto& [id, thread] : threads_) {
    if (thread.vfork_child != child) continue;
    thread.vfork_child.reset();
    vfork_ended_ = true;
  }
}

// ---- Breakpoints --------------------------------------------------------------------------------

bool LiveTarget::is_in_memory(const Breakpoint& breakpoint) const {
  return breakpoint.kind == BreakpointKind::kSoftware ||
         (breakpoint.kind == BreakpointKind::kHardware && !debug_registers_stop());
}

bool LiveTarget::insert(Pid pid, const Breakpoint& breakpoint) {
  if (!processes_.contains(pid)) return false;
  Process& owner = process(pid);
  if (is_in_memory(breakpoint))
    return owner.memory->insert(breakpoint.address, breakpoint.code, breakpoint.kind);
  const bool is_emulated = !debug_registers_stop();
  if (is_emulated && breakpoint.kind == BreakpointKind::kAccess) return false;
  if (!is_of_user(breakpoint) || !owner.debug_registers.insert(breakpoint)) return false;
  if (is_emulated) {
    owner.debug_registers.take_note(owner.reader(), breakpoint.address, breakpoint.size);
    note_home(pid, breakpoint.address);
  }
  ++owner.debug_generation;
  go_anew(pid);
  return true;
}

bool LiveTarget::remove(Pid pid, const Breakpoint& breakpoint) {
  if (!processes_.contains(pid)) return true;
  Process& owner = process(pid);
  if (is_in_memory(breakpoint)) return owner.memory->remove(breakpoint.address, breakpoint.kind);
  owner.debug_registers.remove(breakpoint);
  for (Thread* each : threads_of(pid)) each->changed.reset();
  ++owner.debug_generation;
  go_anew(pid);
  return true;
}

// Stops those that run, but only for a moment.
std::vector<LiveTarget::Thread*> LiveTarget::pause(Pid pid) {
  std::vector<Thread*> paused;
  for (Thread* each : threads_of(pid)) {
    if (each->task.is_stopped() || each->vfork_child) continue;
    if (each->asked == Asked::kNothing) ask(*each, Asked::kPause);
    paused.push_back(each);
  }
  for (Thread* each : paused) await(*each, kPatience);
  return paused;
}

// Threads that have come to breakpoints which are not to be reported go past them, one by one,
// while nobody else could run past one unseen: all that have come to one meanwhile, since pausing
// costs the most.
void LiveTarget::pass_breakpoints() {
  while (!passing_.empty()) {
    const Pid pid = passing_.front().pid;
    pausing_ = true;
    std::vector<ThreadId> stopped;
    for (const Thread* each : pause(pid)) stopped.push_back(each->id);
    for (const ThreadId id : stopped)
      if (const auto each = threads_.find(id); each != threads_.end()) take_if_any(each->second);
    for (size_t i = 0; i < passing_.size(); ++i)
      if (const auto each = threads_.find(passing_[i]);
          each != threads_.end() && passing_[i].pid == pid)
        step_over(each->second);
    std::erase_if(passing_, [&](ThreadId id) { return id.pid == pid; });
    pausing_ = false;
    let_paused_go();
  }
  let_paused_go();  // who has paused late
}

void LiveTarget::let_paused_go() {
  for (const ThreadId id : std::exchange(paused_, {}))
    if (const auto each = threads_.find(id);
        each != threads_.end() && each->second.task.is_stopped())
      go(each->second);
}

// Those that run pause, and go on with what is in force now.
void LiveTarget::go_anew(Pid pid) {
  passing_.push_back({pid, {}});
  pass_breakpoints();
}

void LiveTarget::take_if_any(Thread& thread) {
  if (thread.task.is_stopped() || thread.task.status().gone()) take(thread);
}

void LiveTarget::step_over(Thread& thread) {
  LiveMemory& memory = *process(thread.id.pid).memory;
  uint64_t at = 0;
  while_alive(thread, [&] { at = thread.task.registers().rip; });
  if (!thread.task.is_stopped()) return;
  if (!memory.breakpoints(at)) return paused_.push_back(thread.id);
  memory.uncover(at);
  const ThreadId id = thread.id;
  thread.goes_past = at;
  thread.steps_for_us = !thread.wanted.step;
  thread.task.resume_if_alive(std::exchange(thread.deliver, 0), Tracee::Until::kNextInstruction);
  constexpr std::chrono::milliseconds kOneInstruction{200};
  await(thread, kOneInstruction);
  memory.cover(at);
  const bool is_done = thread.task.is_stopped();  // it may wait in a system call
  if (is_done && thread.asked == Asked::kNothing) thread.asked = Asked::kPause;
  take_if_any(thread);
  if (const auto left = threads_.find(id); left != threads_.end()) left->second.goes_past.reset();
}

// ---- Attaching and detaching --------------------------------------------------------------------

void LiveTarget::attach(Pid pid) {
  const auto found = free_process(pid);
  if (!found)
    throw Error(fmt::format("cannot attach to {}", pid.value),
                "the restored tree has no such process any more");
  const Pid real = *found;
  processes_.emplace(pid, Process{real, std::make_shared<LiveMemory>(living_task_of(real)), {}});
  const bool before = std::exchange(halting_, true);  // who is born now stands still, too
  while (seize_all(pid)) {
  }
  halting_ = before;
  if (threads_of(pid).empty()) {
    processes_.erase(pid);
    throw Error(fmt::format("cannot attach to {}", pid.value), "it has just ended");
  }
  free_.erase(pid);
}

// Those that /proc shows now; whoever is made by one that is not seized yet is found the next time.
// Returns whether there were any.
bool LiveTarget::seize_all(Pid pid) {
  const Pid real = process(pid).real;
  const auto proc = ProcDirectory::of_if_alive(real);
  std::vector<ThreadId> seized;
  for (const Tid tid : proc ? proc->tasks() : std::vector<Tid>{}) {
    const auto stat = by_real_.contains(tid) ? std::nullopt : stat_of_if_alive(tid);
    if (!stat || stat->works_for_kernel()) continue;
    auto task = Tracee::seize_if_alive(tid, Tracee::kDebugged);
    if (!task) continue;
    const ThreadId id{pid, tid.value == real.value ? leader_of(pid) : number_of(tid).tid};
    ask(add(id, std::move(*task)), Asked::kHalt);
    seized.push_back(id);
  }
  for (const ThreadId id : seized) {
    const auto each = threads_.find(id);
    if (each == threads_.end()) continue;
    await(each->second, kPatience);
    take_if_any(each->second);
  }
  return !seized.empty() && processes_.contains(pid);
}

void LiveTarget::detach(Pid pid) {
  if (!processes_.contains(pid)) return;
  settle(pid);
  const auto found = processes_.find(pid);
  if (found == processes_.end()) return;
  if (found->second.memory.use_count() == 1) found->second.memory->remove_all();
  found->second.debug_registers = {};
  ++found->second.debug_generation;
  for (Thread* thread : threads_of(pid)) {
    by_real_.erase(thread->task.tid());
    if (thread->task.is_stopped()) {
      load_debug_registers(*thread);
      const int signal = thread->task.signal_on_its_way();
      thread->task.detach_if_alive(signal == SIGTRAP || thread->moved ? 0 : signal);
    }
  }
  free_.insert_or_assign(pid, Free::of(found->second.real));
  std::erase_if(threads_, [&](const auto& each) { return each.first.pid == pid; });
  processes_.erase(found);
  drop_events([&](const Event& event) { return event.thread.pid == pid; });
}

// All its threads stand still, and what they had to tell is known.
void LiveTarget::settle(Pid pid) {
  std::vector<ThreadId> stopped;
  for (const Thread* each : pause(pid)) stopped.push_back(each->id);
  const bool before = std::exchange(halting_, true);  // who is born now stands still, too
  for (const ThreadId id : stopped)
    if (const auto each = threads_.find(id); each != threads_.end()) take_if_any(each->second);
  halting_ = before;
  const auto is_its = [&](ThreadId id) { return id.pid == pid; };
  std::erase_if(paused_, is_its);
  std::erase_if(passing_, is_its);
}

// Children that nobody will be told of then run by themselves.
void LiveTarget::drop_events(const std::function<bool(const Event&)>& of) {
  std::vector<Pid> children;
  for (const Event& event : events_)
    if (of(event) && event.child.pid.value != 0 && event.child.pid != event.thread.pid)
      children.push_back(event.child.pid);
  std::erase_if(events_, of);
  for (const Pid child : children) detach(child);
}

// New threads that we trace, too, and that nobody has told us of.
void LiveTarget::take_unknown_dead(Pid real) {
  const auto proc = ProcDirectory::of_if_alive(real);
  for (const Tid tid : proc ? proc->tasks() : std::vector<Tid>{})
    if (!by_real_.contains(tid) && tid != leader_of(real)) {
      early_.erase(tid);
      ::waitpid(tid.value, nullptr, __WALL | WNOHANG);
    }
}

// With the first process of a pid namespace, all in it end; and it is not gone before they are,
// which takes us, who trace them (zap_pid_ns_processes(), kernel/pid_namespace.c).
void LiveTarget::take_dead_of_others(Pid pid) {
  std::vector<ThreadId> dead;
  for (const auto& [id, thread] : threads_)
    if (const auto stat = id.pid != pid ? stat_of_if_alive(thread.task.tid()) : std::nullopt;
        stat && stat->state == 'Z')
      dead.push_back(id);
  for (const ThreadId id : dead) {
    const auto each = threads_.find(id);
    if (each == threads_.end()) continue;
    each->second.task.set_status({});
    each->second.task.poll_stop();
    if (each->second.task.status().gone()) take(each->second);
  }
}

// Waits for its end, so that its number is free and nobody hears of it later.
void LiveTarget::kill(Pid pid) {
  const auto found = processes_.find(pid);
  if (found == processes_.end()) return;
  const Pid real = found->second.real;
  ::kill(real.value, SIGKILL);
  const auto began = std::chrono::steady_clock::now();
  const auto waited = [&] { return std::chrono::steady_clock::now() - began; };
  const auto is_left = [&](Thread* thread) {
    if (thread->task.is_stopped()) thread->task.resume_if_alive(0);
    thread->task.poll_stop();
    return !thread->task.status().gone();
  };
  // All of them each time: a first thread is gone only after the others.
  while (std::ranges::count_if(threads_of(pid), is_left) > 0 && waited() < kPatience) {
    ::usleep(100);
    constexpr std::chrono::milliseconds kUsual{5};
    if (waited() > kUsual) take_unknown_dead(real), take_dead_of_others(pid);
  }
  std::erase_if(by_real_, [&](const auto& each) { return each.second.pid == pid; });
  std::erase_if(threads_, [&](const auto& each) { return each.first.pid == pid; });
  processes_.erase(pid);
  end_vfork(pid);
  drop_events([&](const Event& event) { return event.thread.pid == pid; });
}

void LiveTarget::let_go() {
  tree_->let_go();
  lives_on_ = true;
  if (terminal_) terminal_->leave_reader();
}

}  // namespace snapgdb::gdbstub
