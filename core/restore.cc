#include "core/restore.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <ranges>
#include <utility>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/limits.h"
#include "core/linux/page_server.h"
#include "core/linux/scheduling.h"
#include "core/linux/task.h"
#include "core/resource/sharing.h"
#include "core/resource/signal_queue.h"
#include "core/resource/stopping.h"

namespace snapgdb {
namespace {

constexpr uint64_t kAllSignals = ~uint64_t{0};
// A trap that is blocked or ignored would lose its action (force_sig_info_to_task(),
// kernel/signal.c).
constexpr uint64_t kAllButTraps = kAllSignals & ~(uint64_t{1} << (SIGTRAP - 1));

// It lives on in its other threads.
bool has_lost_leader(const pb::Process& process) {
  return process.threads(0).tid() != process.pid();
}

void within(int32_t id, const char* row, const auto& work) {
  try {
    work();
  } catch (const Error& error) {
    throw Error(fmt::format("cannot restore task {}, {}", id, row), error.what());
  }
}

// The numbers that the tree needs are free here, and ours to choose.
bool may_have_old_pids(const Snapshot& snapshot, const RestorePlan& plan) {
  if (::geteuid() != 0 || snapshot.root().ns_pids_size() > 1) return false;
  const auto is_free = [](int32_t number) {
    return !ProcDirectory::of_if_alive(Pid{number}) && ::kill(-number, 0) != 0;
  };
  for (const Birth& birth : plan.births)
    if (birth.step == Birth::Step::kTemporary && birth.pid > 0 && !is_free(birth.pid)) return false;
  for (const pb::Process& process : snapshot.processes()) {
    if (!is_free(process.pid())) return false;
    for (const pb::Thread& thread : process.threads())
      if (!is_free(thread.tid())) return false;
  }
  return true;
}

// Out of the exit of a system call, where the kernel would not look after an interrupted one, to
// where it deals with signals (get_signal(), kernel/signal.c): not into user space. Further, to the
// delivery of a signal, if there `is_one`.
void go_to_signals(Tracee& task, bool is_one) {
  constexpr std::chrono::seconds kPatience{10};
  task.interrupt_if_alive();
  for (int stops = is_one ? 2 : 1; stops > 0; --stops) {
    task.resume_if_alive(0);
    if (!task.wait_stop(kPatience))
      throw Error(fmt::format("cannot hold restored task {}", task.tid().value),
                  task.status().gone() ? "it was killed" : "it does not stop");
  }
}

// A first thread is gone only after all others.
void await_ends(std::vector<Seed> killed) {
  constexpr int kTries = 5000;
  for (int i = 0; i < kTries && !killed.empty(); ++i) {
    std::erase_if(killed, [](Seed& seed) {
      seed.task().poll_stop();
      return seed.task().status().gone();
    });
    if (!killed.empty()) ::usleep(1000);
  }
}

}  // namespace

RestoredTree::RestoredTree(const Snapshot& snapshot, const RestorePlan& plan,
                           const std::string& scratch, Progress* progress, Numbers numbers)
    : snapshot_(snapshot),
      plan_(plan),
      progress_(progress),
      own_pids_(numbers == Numbers::kOwn || plan.isolated || plan.own_user ||
                !may_have_old_pids(snapshot, plan)) {
  if (numbers == Numbers::kOldIfFree)  // once, also if it is begun again
    for (const pb::Process& process : snapshot.processes())
      count_expected(progress, stored_memory(snapshot, process));
  try {
    make(scratch);
  } catch (...) {
    end_all();
    throw;
  }
}

void RestoredTree::make(const std::string& scratch) {
  allow_all_descriptors();  // also to the keeper, and whoever is born of it
  const ScopedPinning pinning;
  start_keeper(scratch);
  grow();
  for (const pb::Process& process : snapshot_.processes())
    if (!is_zombie(process)) make_threads(process);
  for (const pb::Process& process : snapshot_.processes())
    if (!is_zombie(process)) restore_memory_of(process);
  RestoreContext shared = context();
  remove_segments_again(shared);
  open_late_files(shared);
  for (const pb::Process& process : snapshot_.processes())
    if (!is_zombie(process)) fill(process);
  seal_memfds();
  take_locks_of_files(shared);
  start_files(shared);
  settle_epolls(shared);
  for (const pb::Process& process : snapshot_.processes())
    if (!is_zombie(process)) finish(process);
  let_connections_go(shared);
  progress_ = nullptr;  // it was for as long as we are in here
}

RestoredTree::~RestoredTree() {
  if (!seeds_.empty()) end_all();
}

// Nothing of a tree that is not whole stays: the next one wants its names and numbers.
void RestoredTree::end_all() {
  std::vector<Seed> killed;
  for (auto& [number, seed] : seeds_) {
    if (Tracee& task = seed.task(); !task.status().gone()) {
      ::kill(task.tid().value, SIGKILL);
      task.set_status({});  // it leaves its stop, and is waited for
    }
    killed.push_back(std::move(seed));
  }
  seeds_.clear();
  await_ends(std::move(killed));
}

// Not before all have what they hold, and are mapped as they were. Sealing takes a description that
// may write, as somebody had who has closed it since.
void RestoredTree::seal_memfds() {
  for (size_t i = 0; i < plan_.files.size(); ++i) {
    const pb::Descriptor* descriptor = plan_.files[i].descriptor;
    if (!descriptor || plan_.files[i].how != PlannedFile::How::kOpened || !descriptor->has_memfd())
      continue;
    const Fd held = duplicate_descriptor(keeper_->tid(), plan_.file_base + static_cast<int>(i));
    const Fd memfd(::open(fmt::format("/proc/self/fd/{}", held.get()).c_str(), O_RDWR | O_CLOEXEC));
    const auto seals = static_cast<int>(descriptor->memfd().seals());
    const int now = memfd.valid() ? ::fcntl(memfd.get(), F_GET_SEALS) : -1;
    if (now < 0 || ((seals & ~now) && ::fcntl(memfd.get(), F_ADD_SEALS, seals) != 0))
      throw_errno("cannot seal {}", plan_.files[i].what);
  }
}

Seed& RestoredTree::seed_of(const pb::Thread& thread) {
  return seeds_.at(tree_number(snapshot_, thread));
}

// The first thread, or, once that has exited alone, the next.
Seed& RestoredTree::seed_of(const pb::Process& process) {
  const auto leader = seeds_.find(tree_number(snapshot_, process));
  return leader != seeds_.end() ? leader->second : seed_of(process.threads(0));
}

const pb::Process* RestoredTree::find_process(int32_t number) const {
  const auto found = std::ranges::find(snapshot_.processes(), number, [&](const auto& process) {
    return tree_number(snapshot_, process);
  });
  return found == snapshot_.processes().end() ? nullptr : &*found;
}

const pb::Process& RestoredTree::process_of(int32_t number) const {
  return *find_process(number);
}

void RestoredTree::restore_memory_of(const pb::Process& process) {
  const int32_t number = tree_number(snapshot_, process);
  if (!is_first_to_share(snapshot_, process, kMemory) || !has_memory_.insert(number).second) return;
  RestoreContext context = this->context();
  const auto parent = memory_from_.find(number);
  within(process.pid(), "memory", [&] {
    restore_memory(context, process, parent == memory_from_.end() ? nullptr : parent->second,
                   seed_of(process));
  });
}

void RestoredTree::fill(const pb::Process& process) {
  Seed& leader = seed_of(process);
  RestoreContext context = this->context();
  for (const ProcessRestorer* row : process_restorers())
    within(process.pid(), row->name, [&] { row->restore(context, process, leader); });
  for (const pb::Thread& thread : process.threads())
    for (const ThreadRestorer* row : thread_restorers())
      within(thread.tid(), row->name,
             [&] { row->restore(context, process, thread, seed_of(thread)); });
  if (has_lost_leader(process))
    within(process.pid(), "its first thread", [&] { end_leader(context, process); });
}

// With the name that it had, and with rights like those of the others: they say who may send
// signals to the process. Before children are told what signal to get at a parent's end.
void RestoredTree::end_leader(RestoreContext& context, const pb::Process& process) {
  Seed& leader = seed_of(process);
  pb::Thread last = *process.threads().rbegin();
  last.set_name(process.name());
  last.clear_parent_death_signal();
  restore_alone(context, process, last, leader);
  leader.end_alone(process.exit_status());
  seeds_.erase(tree_number(snapshot_, process));
}

void RestoredTree::queue_signals(const pb::Process& process) {
  Seed& leader = seed_of(process);
  queue_of(process).queue(leader);
  for (const pb::Thread& thread : process.threads())
    queue_of(process, thread).queue(seed_of(thread));
  for (const pb::Thread& thread : process.threads())
    seed_of(thread).task().set_signal_mask(kAllSignals);
  restore_trap_action(process, leader);
  queue_of(process).queue_last(leader);
  for (const pb::Thread& thread : process.threads())
    queue_of(process, thread).queue_last(seed_of(thread));
  if (std::string why = limit_pending_signals(process, leader.tid()); !why.empty())
    notes_.push_back(std::move(why));
}

void RestoredTree::finish(const pb::Process& process) {
  for (const pb::Thread& thread : process.threads())
    seed_of(thread).task().set_signal_mask(kAllButTraps);
  Seed& leader = seed_of(process);
  within(process.pid(), "timers", [&] { start_timers(process, leader); });
  within(process.pid(), "pending signals", [&] { queue_signals(process); });
  if (is_last_to_share(snapshot_, process, kMemory)) leader.unplant();
  for (const pb::Thread& thread : process.threads()) {
    set_program_registers(snapshot_, process, thread, seed_of(thread).task());
    restore_dispatch(thread, seed_of(thread).task());
  }
  if (const int signal = signal_to_stop(snapshot_, process)) ::kill(leader.tid().value, signal);
}

void RestoredTree::bring_memory_later() {
  const auto hold = [](pid_t pid) {
    Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!process.valid()) throw_errno("cannot hold process {} by a descriptor", pid);
    return process;
  };
  ServedTree tree;
  for (const pb::Process& process : snapshot_.processes())
    if (!is_zombie(process)) tree.processes.push_back(hold(seed_of(process).tid().value));
  if (own_pids_) tree.init = hold(keeper_->tid().value);
  start_page_server(
      std::exchange(lazy_, {}),
      [this](uint64_t first, uint64_t count, const auto& visit) {
        snapshot_.pages().visit_pages(first, count, visit);
      },
      tree);
}

void RestoredTree::release(Keeper::We what) {
  if (!lazy_.empty()) bring_memory_later();
  cgroups_.freeze_again(snapshot_);
  cgroups_.keep();
  keeper_->let_go(what);
  system_v_.keep();
  message_queues_.keep();
  detach_from_all();
}

// Those that run already may end the others at once. Who is killed while we still trace it is not
// gone for its own tree before we have waited for it; a first thread only after all others.
void RestoredTree::detach_from_all() {
  std::vector<Seed> killed;
  // Threads and children before those that made them: they are the more likely to look at others.
  for (auto& [number, seed] : seeds_ | std::views::reverse)
    if (!seed.task().detach_if_alive(0)) killed.push_back(std::move(seed));
  seeds_.clear();
  await_ends(std::move(killed));
}

std::optional<Pid> RestoredTree::real_pid(const pb::Process& process) const {
  const auto seed = seeds_.find(tree_number(snapshot_, process));
  if (seed == seeds_.end()) return std::nullopt;
  return Pid{seed->second.tid().value};
}

std::vector<RestoredTree::HeldTask> RestoredTree::hand_over(std::span<const Pid> held) {
  if (!lazy_.empty()) bring_memory_later();
  keeper_->let_run();
  std::vector<HeldTask> tasks;
  for (const pb::Process& process : snapshot_.processes()) {
    if (is_zombie(process) || std::ranges::find(held, Pid{process.pid()}) == held.end()) continue;
    for (const pb::Thread& thread : process.threads()) {
      auto seed = seeds_.extract(tree_number(snapshot_, thread));
      Tracee& task = seed.mapped().task();
      go_to_signals(task, !thread.stop_siginfo().empty());
      task.set_options(Seed::kOptions);  // filters of system calls are no longer suspended
      tasks.push_back({Pid{process.pid()}, Tid{thread.tid()}, std::move(task)});
    }
  }
  detach_from_all();
  return tasks;
}

RestoredTree restored_whatever_runs(const Snapshot& snapshot, const RestorePlan& plan,
                                    const std::string& scratch, Progress* progress) {
  try {
    return RestoredTree(snapshot, plan, scratch, progress);
  } catch (const SystemError& error) {  // EEXIST: of clone3(2) with set_tid, and make_thread()
    if (plan.isolated || plan.own_user || error.error_number() != EEXIST) throw;
  }
  return RestoredTree(snapshot, plan, scratch, progress, RestoredTree::Numbers::kOwn);
}

}  // namespace snapgdb
