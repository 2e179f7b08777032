#include "gdbstub/live/live_target.h"

#include <elf.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/host.h"
#include "core/resource/processor.h"
#include "gdbstub/live/launch.h"

namespace snapgdb::gdbstub {
namespace {

std::vector<pb::XstateComponent> components_here() {
  std::vector<pb::XstateComponent> components;
  for (const XstateRange& range : describe_host().xstate) {
    pb::XstateComponent component;
    component.set_number(range.number);
    component.set_offset(range.offset);
    component.set_size(range.size);
    components.push_back(component);
  }
  return components;
}

// Readable when a task has something to report. The signal stays blocked afterwards: a tree is
// followed by the next one.
Fd receive_child_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  Fd fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) throw_errno("cannot receive signals of the restored tree");
  return fd;
}

Fd readable_if_any(std::initializer_list<int> descriptors) {
  Fd all(::epoll_create1(EPOLL_CLOEXEC));
  for (const int descriptor : descriptors) {
    if (descriptor < 0) continue;
    epoll_event event{.events = EPOLLIN, .data = {}};
    if (::epoll_ctl(all.get(), EPOLL_CTL_ADD, descriptor, &event) != 0)
      throw_errno("cannot wait for the restored tree");
  }
  return all;
}

RestorePlan plan_for(const Snapshot& snapshot) {
  RestorePlan plan = plan_restore(snapshot, {.isolated = true, .lazy = true});
  if (plan.obstacles.empty()) return plan;
  const Obstacle& first = plan.obstacles.front();
  const size_t others = plan.obstacles.size() - 1;
  throw Error("cannot make the snapshot run",
              fmt::format("{}{}: {}{}", first.pid ? fmt::format("process {}: ", first.pid) : "",
                          first.resource, first.why,
                          others ? fmt::format(" (and {} more in the way)", others) : ""),
              first.help);
}

// Its first thread may be gone.
Pid group_of(Tid task) {
  const ProcFields status(ProcDirectory::of(Pid{task.value}).read("status"));
  return Pid{static_cast<pid_t>(status.number("Tgid"))};
}

template <typename T>
std::string bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

user_regs_struct general_of(const std::string& bytes) {
  user_regs_struct registers{};
  std::memcpy(&registers, bytes.data(), std::min(bytes.size(), sizeof registers));
  return registers;
}

bool equal(const user_regs_struct& a, const user_regs_struct& b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

}  // namespace

LiveTarget::LiveTarget(const SnapshotTarget& from, std::span<const Pid> attached,
                       std::unique_ptr<ProgramTerminal> terminal)
    : snapshot_(from.snapshot()),
      layout_(xcr0_of(*snapshot_), components_here()),
      terminal_(std::move(terminal)),
      child_signals_(receive_child_signals()),
      timer_(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)),
      readable_(readable_if_any(
          {child_signals_.get(), timer_.get(), terminal_ ? terminal_->descriptor() : -1})),
      plan_(plan_for(*snapshot_)),
      files_([this](Pid pid) { return living_task(pid); }) {
  {
    std::optional<ProgramTerminal::Lent> lent;
    if (terminal_) lent.emplace(*terminal_);
    tree_.emplace(*snapshot_, plan_);
  }
  if (!terminal_) settings_.emplace(terminal_settings_for(plan_));
  for (const pb::Process& process : snapshot_->processes())
    if (std::ranges::find(attached, Pid{process.pid()}) == attached.end())
      if (const auto real = tree_->real_pid(process))
        free_.emplace(Pid{process.pid()}, Free::of(*real));
  for (RestoredTree::HeldTask& held : tree_->hand_over(attached)) take_over(std::move(held), from);
  carry_over(from);
}

// Who dies while we trace it is gone only when we have waited for it.
LiveTarget::~LiveTarget() {
  for (const Pid pid : processes()) kill(pid);
  if (lives_on_) return;
  const Tid keeper{tree_->keeper().value};
  ::kill(keeper.value, SIGKILL);
  // Among them those that were born just now, whom nobody has told us of.
  for (auto ended = Tracee::next_to_report(); ended != keeper; ended = Tracee::next_to_report())
    if (ended)
      ::waitpid(ended->value, nullptr, __WALL | WNOHANG);
    else
      ::usleep(100);
}

LiveTarget::Thread& LiveTarget::add(ThreadId id, Tracee task) {
  by_real_[task.tid()] = id;
  return threads_.insert_or_assign(id, Thread{id, std::move(task)}).first->second;
}

void LiveTarget::take_over(RestoredTree::HeldTask held, const SnapshotTarget& from) {
  held.tracee.set_options(Tracee::kDebugged);
  const Tid real = held.tracee.tid();
  Process& owner = processes_[held.pid];
  if (!owner.memory) owner = {group_of(real), memory_of(held.pid, real), {}};
  Thread& thread = add({held.pid, held.tid}, std::move(held.tracee));
  const pb::Process& process = *snapshot_->process(held.pid.value);
  const auto& record = *std::ranges::find(process.threads(), held.tid.value, &pb::Thread::tid);
  const user_regs_struct recorded = general_of(record.registers());
  const user_regs_struct actual = thread.task.registers();
  if (record.job_stopped()) thread.unreported = SIGSTOP;
  if (!equal(recorded, actual)) thread.restart = {recorded, actual};
  if (const auto changed = from.changes().registers.find(thread.id);
      changed != from.changes().registers.end()) {
    RegisterSet set = changed->second;
    set.xstate = xstate_here(snapshot_->record().host(), set.xstate);
    set_registers(thread.id, std::move(set));
    if (record.job_stopped() && thread.moved) thread.job_stop = {actual.rip, actual.rsp, true};
  }
}

// Shared with another process of the tree, where they share it.
std::shared_ptr<LiveMemory> LiveTarget::memory_of(Pid pid, Tid real) const {
  const auto space = [this](Pid each) { return snapshot_->process(each.value)->address_space(); };
  for (const auto& [other, process] : processes_)
    if (process.memory && space(other) == space(pid)) return process.memory;
  return std::make_shared<LiveMemory>(real);
}

void LiveTarget::carry_over(const SnapshotTarget& from) {
  for (const auto& [pid, live] : processes_) {
    const auto allocated =
        from.changes().allocated.find(snapshot_->process(pid.value)->address_space());
    if (allocated != from.changes().allocated.end())
      for (const auto& [start, mapping] : allocated->second)
        if (!allocate(pid, mapping))
          throw Error("cannot make the snapshot run",
                      fmt::format("process {} cannot be given the debugger's memory at {:#x}",
                                  pid.value, start));
    const auto changed = from.changes().memory.find(snapshot_->process(pid.value)->address_space());
    if (changed == from.changes().memory.end()) continue;
    for (const auto& [address, page] : changed->second.pages())
      if (!write_memory(pid, address, std::as_bytes(std::span(page))))
        throw Error("cannot make the snapshot run",
                    fmt::format("what was written at {:#x} does not fit into process {}", address,
                                pid.value));
  }
}

// As its program knows it; another one, if that is taken: captured trees may show numbers of a
// namespace they no longer belong to.
ThreadId LiveTarget::number_of(Tid real) const {
  const ProcFields status(ProcDirectory::of(Pid{real.value}).read("status"));
  ThreadId id{Pid{innermost(status.text("NStgid"))}, Tid{innermost(status.text("NSpid"))}};
  constexpr pid_t kBeyondAll = 1 << 22;  // PID_MAX_LIMIT
  const pid_t real_group = static_cast<pid_t>(status.number("Tgid"));
  for (const auto& [pid, each] : processes_)
    if (each.real.value == real_group)
      return {pid, threads_.contains({pid, id.tid}) ? Tid{id.tid.value + kBeyondAll} : id.tid};
  const auto free = free_.find(id.pid);
  if (processes_.contains(id.pid) || (free != free_.end() && free->second.is_there()))
    id = {Pid{id.pid.value + kBeyondAll}, Tid{id.tid.value + kBeyondAll}};
  return id;
}

const LiveTarget::Process* LiveTarget::find(Pid pid) const {
  const auto found = processes_.find(pid);
  return found == processes_.end() ? nullptr : &found->second;
}

LiveTarget::Process& LiveTarget::process(Pid pid) {
  return processes_.at(pid);
}

std::vector<LiveTarget::Thread*> LiveTarget::threads_of(Pid pid) {
  std::vector<Thread*> out;
  for (auto at = threads_.lower_bound({pid, Tid{}}); at != threads_.end() && at->first.pid == pid;
       ++at)
    out.push_back(&at->second);
  return out;
}

// ---- Looking ------------------------------------------------------------------------------------

std::vector<Pid> LiveTarget::processes() const {
  std::vector<Pid> out;
  for (const auto& [pid, process] : processes_) out.push_back(pid);
  return out;
}

// Of a first thread that exits before the others the kernel reports nothing until they have, and
// nothing is there to be looked at. But it is there again if another one calls execve(2).
bool LiveTarget::has_exited(const Thread& thread) const {
  if (thread.task.is_stopped() || thread.id.tid != leader_of(thread.id.pid)) return false;
  const auto next = std::next(threads_.find(thread.id));
  const bool is_last = next == threads_.end() || next->first.pid != thread.id.pid;
  const bool is_first = threads_.lower_bound({thread.id.pid, Tid{}})->first == thread.id;
  if (is_last && is_first) return false;
  const auto stat = stat_of_if_alive(thread.task.tid());
  return !stat || stat->state == 'Z' || stat->state == 'X';
}

bool LiveTarget::has(ThreadId id) const {
  const auto thread = threads_.find(id);
  return thread != threads_.end() && !has_exited(thread->second);
}

std::vector<Tid> LiveTarget::threads(Pid pid) const {
  std::vector<Tid> out;
  for (auto at = threads_.lower_bound({pid, Tid{}}); at != threads_.end() && at->first.pid == pid;
       ++at)
    if (!has_exited(at->second)) out.push_back(at->first.tid);
  const auto leader = std::ranges::find(out, leader_of(pid));
  if (leader != out.end()) std::rotate(out.begin(), leader, leader + 1);
  return out;
}

Tid LiveTarget::focus(Pid pid) const {
  return last_reported_.pid == pid && has(last_reported_) ? last_reported_.tid
                                                          : threads(pid).front();
}

ThreadDescription LiveTarget::describe(ThreadId id) const {
  const Thread& thread = threads_.at(id);
  const auto stat = stat_of_if_alive(thread.task.tid());
  const int signal = shown_signal(thread);
  return {stat ? stat->name : "", stat ? stat->cpu : 0, signal == SIGTRAP ? 0 : signal};
}

// Nothing is left of a breakpoint once the client has put registers back after a function call.
int LiveTarget::shown_signal(const Thread& thread) {
  return thread.trapped && thread.moved ? 0 : thread.task.signal_on_its_way();
}

size_t LiveTarget::read_memory(Pid pid, uint64_t address, std::span<std::byte> out) const {
  const Process* process = find(pid);
  return process ? process->memory->read(address, out) : 0;
}

bool LiveTarget::write_memory(Pid pid, uint64_t address, std::span<const std::byte> bytes) {
  if (!processes_.contains(pid) || !process(pid).memory->write(address, bytes)) return false;
  Process& owner = process(pid);
  if (is_watched_step_by_step(owner))
    owner.debug_registers.take_note(owner.reader(), address, bytes.size());
  return true;
}

std::optional<Mapping> LiveTarget::mapping_at_or_after(Pid pid, uint64_t address) const {
  const auto proc = proc_of(pid);
  if (!proc) return std::nullopt;
  const auto mappings = parse_mappings(proc->read("maps"));
  const auto found = std::ranges::upper_bound(mappings, address, {}, &ProcMapping::end);
  if (found == mappings.end()) return std::nullopt;
  return Mapping{found->start, found->end, found->protection, found->name};
}

RegisterSet LiveTarget::registers(ThreadId id) const {
  const Thread& thread = threads_.at(id);
  if (!thread.task.is_stopped())
    throw Error(fmt::format("cannot read registers of {}", id.tid.value), "the thread runs");
  user_regs_struct general = thread.task.registers();
  if (thread.restart && equal(general, thread.restart->actual)) general = thread.restart->recorded;
  const auto xstate = thread.task.register_set(NT_X86_XSTATE);
  return {bytes_of(general),
          std::string(reinterpret_cast<const char*>(xstate.data()), xstate.size())};
}

// A debugger puts registers back after a function call: then the call of the system that was
// interrupted in the snapshot begins anew, as it would have.
void LiveTarget::set_registers(ThreadId id, RegisterSet registers) {
  Thread& thread = threads_.at(id);
  if (!thread.task.is_stopped())
    throw Error(fmt::format("cannot set registers of {}", id.tid.value), "the thread runs");
  user_regs_struct general = general_of(registers.general);
  const user_regs_struct seen = general_of(this->registers(id).general);
  if (thread.restart) {
    const auto& [recorded, actual] = *thread.restart;
    constexpr std::array kPlace = {&user_regs_struct::rip, &user_regs_struct::rax,
                                   &user_regs_struct::orig_rax};
    if (std::ranges::all_of(kPlace, [&](auto each) { return general.*each == recorded.*each; })) {
      for (const auto each : kPlace) general.*each = actual.*each;
      for (const auto argument : {&user_regs_struct::rdi, &user_regs_struct::rdx})
        if (general.*argument == recorded.*argument) general.*argument = actual.*argument;
    }
  }
  if (general.rip != seen.rip) {
    thread.moved = true;
    // The kernel would go back to the interrupted call from there, which lldb does not think of.
    if (general.orig_rax == seen.orig_rax) general.orig_rax = ~uint64_t{0};
  }
  thread.task.set_registers(general);
  if (!registers.xstate.empty())
    thread.task.set_register_set(NT_X86_XSTATE, std::as_bytes(std::span(registers.xstate)));
}

std::optional<std::string> LiveTarget::siginfo(ThreadId id) const {
  const Thread& thread = threads_.at(id);
  if (shown_signal(thread) == 0) return std::nullopt;
  return bytes_of(thread.task.siginfo());
}

// Before a function call, gdb saves what there is, and writes it back at the breakpoint behind it.
bool LiveTarget::set_siginfo(ThreadId id, std::string_view bytes) {
  Thread& thread = threads_.at(id);
  siginfo_t info{};
  if (shown_signal(thread) == 0 || bytes.size() != sizeof info) return false;
  std::memcpy(&info, bytes.data(), sizeof info);
  thread.task.set_siginfo(info);
  thread.trapped = false;
  return true;
}

std::optional<LiveFiles::LivingTask> LiveTarget::living_task(Pid pid) const {
  const Process* process = find(pid);
  if (!process) return std::nullopt;
  const LiveFiles::LivingTask first{process->real, Tid{pid.value}};
  const auto leader = threads_.find({pid, first.tid});
  if (leader != threads_.end() && !has_exited(leader->second)) return first;
  for (const auto& [id, thread] : threads_)
    if (id.pid == pid && !has_exited(thread))
      return LiveFiles::LivingTask{Pid{thread.task.tid().value}, id.tid};
  return first;
}

std::optional<ProcDirectory> LiveTarget::proc_of(Pid pid) const {
  const auto task = living_task(pid);
  return task ? ProcDirectory::of_if_alive(task->real) : std::nullopt;
}

std::optional<std::string> LiveTarget::auxv(Pid pid) const {
  const auto proc = proc_of(pid);
  return proc ? proc->read_if_allowed("auxv") : std::nullopt;
}

std::optional<std::string> LiveTarget::executable(Pid pid) const {
  const auto proc = proc_of(pid);
  return proc ? proc->link_if_allowed("exe") : std::nullopt;
}

void LiveTarget::send_input(std::string_view text) {
  if (!terminal_)
    throw Error("cannot give the program input", "it reads from the standard input of the stub",
                "write it there");
  terminal_->send_input(text);
}

std::vector<std::string> LiveTarget::notes() const {
  std::vector<std::string> notes;
  for (const pb::Process& process : snapshot_->processes())
    if (std::ranges::any_of(process.threads(), &pb::Thread::job_stopped))
      notes.push_back(
          fmt::format("process {} stays stopped by job control: `signal SIGCONT` lets it go on",
                      process.pid()));
  notes.insert(notes.end(), plan_.notes.begin(), plan_.notes.end());
  notes.insert(notes.end(), tree_->notes().begin(), tree_->notes().end());
  return notes;
}

std::unique_ptr<RunningTarget> launch(const SnapshotTarget& from, std::span<const Pid> attached) {
  return std::make_unique<LiveTarget>(from, attached, std::make_unique<ProgramTerminal>());
}

std::unique_ptr<RunningTarget> launch_on_our_streams(const SnapshotTarget& from,
                                                     std::span<const Pid> attached) {
  return std::make_unique<LiveTarget>(from, attached, nullptr);
}

}  // namespace snapgdb::gdbstub
