#include "core/restore.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <ranges>
#include <utility>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/freezer.h"
#include "core/linux/page_server.h"
#include "core/linux/task.h"

namespace snapgdb {
namespace {

constexpr uint64_t kThread =
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
constexpr uint64_t kAllSignals = ~uint64_t{0};

bool is_zombie(const pb::Process& process) {
  return process.state() == "Z";
}

void within(int32_t id, const char* row, const auto& work) {
  try {
    work();
  } catch (const Error& error) {
    throw Error(fmt::format("cannot restore task {}, {}", id, row), error.what());
  }
}

// The numbers that the tree needs are free here, and ours to choose.
bool may_have_old_pids(const Snapshot& snapshot) {
  if (::geteuid() != 0) return false;
  const auto is_free = [](int32_t number) {
    return !ProcDirectory::of_if_alive(Pid{number}) && ::kill(-number, 0) != 0;
  };
  for (const pb::Process& process : snapshot.processes()) {
    if (process.ns_pids_size() > 1 || !is_free(process.pid())) return false;
    for (const pb::Thread& thread : process.threads())
      if (!is_free(thread.tid())) return false;
  }
  return true;
}

}  // namespace

RestoredTree::RestoredTree(const Snapshot& snapshot, const RestorePlan& plan)
    : snapshot_(snapshot), plan_(plan), own_pids_(!may_have_old_pids(snapshot)) {
  const Keeper::Options options{.own_pids = own_pids_,
                                .own_user = own_pids_ && ::geteuid() != 0,
                                .root_pid = own_number(snapshot.root()),
                                .seed_base = plan.seed_base,
                                .file_base = plan.file_base,
                                .monotonic_ns = snapshot.record().monotonic_ns(),
                                .boottime_ns = snapshot.record().boottime_ns()};
  const ScopedPinning pinning;
  keeper_ = std::make_unique<Keeper>(options, [&] { return open_files(snapshot, plan); });
  if (const std::string& why = keeper_->why_no_clocks(); !why.empty())
    notes_.push_back("the tree's clocks jump: " + why);
  grow();
  for (const pb::Process& process : snapshot.processes())
    if (!is_zombie(process)) fill(process);
  seal_memfds();
  for (const pb::Process& process : snapshot.processes())
    if (!is_zombie(process)) finish(process);
}

// Not before all have what they hold, and are mapped as they were.
void RestoredTree::seal_memfds() {
  for (size_t i = 0; i < plan_.files.size(); ++i) {
    const pb::Descriptor* descriptor = plan_.files[i].descriptor;
    if (!descriptor || plan_.files[i].how != PlannedFile::How::kOpened ||
        !descriptor->has_memfd() || (descriptor->flags() & O_ACCMODE) == O_RDONLY)
      continue;
    const Fd memfd = duplicate_descriptor(keeper_->tid(), plan_.file_base + static_cast<int>(i));
    const auto seals = static_cast<int>(descriptor->memfd().seals());
    const int now = memfd.valid() ? ::fcntl(memfd.get(), F_GET_SEALS) : -1;
    if (now < 0 || ((seals & ~now) && ::fcntl(memfd.get(), F_ADD_SEALS, seals) != 0))
      throw_errno("cannot seal {}", plan_.files[i].what);
  }
}

Seed& RestoredTree::seed_of(const pb::Thread& thread) {
  return seeds_.at(own_number(thread));
}

const pb::Process& RestoredTree::process_of(int32_t number) const {
  return *std::ranges::find(snapshot_.processes(), number,
                            [](const pb::Process& process) { return own_number(process); });
}

// First the processes; so that parents, sessions and groups come about by
// themselves.
void RestoredTree::grow() {
  Seed root = keeper_->take_root();
  root_ = Pid{root.tid().value};
  constexpr uint64_t kEndOfUserSpace = 0x7ffffffff000;
  const uint64_t end = plan_.seed_base + Seed::kSize;
  // From now on it dies with us (PTRACE_O_EXITKILL).
  root.add("outlive its parent", SYS_prctl, {PR_SET_PDEATHSIG, 0});
  // What the kernel would still look up there.
  if (const auto rseq = root.task().rseq(); rseq && rseq->address) {
    constexpr uint64_t kUnregister = 1;  // RSEQ_FLAG_UNREGISTER
    root.add("give up restartable sequences", SYS_rseq,
             {rseq->address, rseq->size, kUnregister, rseq->signature});
  }
  constexpr uint64_t kHeadSize = 24;  // struct robust_list_head
  root.add("give up robust futexes", SYS_set_robust_list, {0, kHeadSize});
  root.add("give up the address of its number", SYS_set_tid_address, {0});
  root.add("empty the address space", SYS_munmap, {0, plan_.seed_base});
  root.add("empty the address space", SYS_munmap, {end, kEndOfUserSpace - end});
  root.perform();
  seeds_.emplace(own_number(snapshot_.root()), std::move(root));
  for (const Birth& birth : plan_.births) step(birth);
}

// With the memory of its parent, so that both share what they shared; but not where that comes
// later only.
void RestoredTree::bear(const Birth& birth) {
  const pb::Process& parent = process_of(birth.other);
  if (!plan_.lazy) {
    restore_memory_of(parent);
    memory_from_[birth.pid] = &parent;
  }
  seeds_.emplace(birth.pid, seed_of(parent).clone(fmt::format("make process {}", birth.pid), 0,
                                                  SIGCHLD, birth.pid));
}

void RestoredTree::restore_memory_of(const pb::Process& process) {
  const int32_t number = own_number(process);
  if (!has_memory_.insert(number).second) return;
  RestoreContext context{snapshot_, plan_, keeper_->tid(), notes_, lazy_};
  const auto parent = memory_from_.find(number);
  within(process.pid(), "memory", [&] {
    restore_memory(context, process, parent == memory_from_.end() ? nullptr : parent->second,
                   seed_of(process));
  });
}

void RestoredTree::step(const Birth& birth) {
  const std::string name = fmt::format("process {}", birth.pid);
  switch (birth.step) {
    case Birth::Step::kClone:
      if (birth.other) bear(birth);
      break;
    case Birth::Step::kSetsid:
      seeds_.at(birth.pid).call("make a session of " + name, SYS_setsid);
      break;
    case Birth::Step::kSetpgid:
      seeds_.at(birth.pid).call("put " + name + " into its group", SYS_setpgid,
                                {0, static_cast<uint64_t>(birth.other)});
      break;
    case Birth::Step::kExit:
      seeds_.at(birth.pid).end(process_of(birth.pid).exit_status());
      seeds_.erase(birth.pid);
      break;
  }
}

// Threads come first: limits may forbid them later. They wait, while the first one does the work.
void RestoredTree::fill(const pb::Process& process) {
  Seed& leader = seed_of(process);
  for (const pb::Thread& thread : process.threads())
    if (thread.tid() != process.pid())
      seeds_.emplace(own_number(thread),
                     leader.clone(fmt::format("make thread {} of process {}", own_number(thread),
                                              own_number(process)),
                                  kThread, 0, own_number(thread)));
  restore_memory_of(process);
  RestoreContext context{snapshot_, plan_, keeper_->tid(), notes_, lazy_};
  for (const ProcessRestorer* row : process_restorers())
    within(process.pid(), row->name, [&] { row->restore(context, process, leader); });
  for (const pb::Thread& thread : process.threads())
    for (const ThreadRestorer* row : thread_restorers())
      within(thread.tid(), row->name,
             [&] { row->restore(context, process, thread, seed_of(thread)); });
}

// A signal that was being delivered comes first again.
void RestoredTree::queue_signals(const pb::Process& process) {
  const auto number = static_cast<uint64_t>(own_number(process));
  const auto signal_in = [](const std::string& info) {
    siginfo_t value{};
    std::copy_n(info.data(), std::min(info.size(), sizeof value), reinterpret_cast<char*>(&value));
    return static_cast<uint64_t>(value.si_signo);
  };
  Seed& leader = seed_of(process);
  for (const std::string& info : process.pending_siginfo())
    leader.add("queue a signal", SYS_rt_sigqueueinfo,
               {number, signal_in(info), leader.put(std::as_bytes(std::span(info)))});
  leader.perform();
  for (const pb::Thread& thread : process.threads()) {
    Seed& seed = seed_of(thread);
    const auto queue = [&](const std::string& info) {
      seed.add("queue a signal", SYS_rt_tgsigqueueinfo,
               {number, static_cast<uint64_t>(own_number(thread)), signal_in(info),
                seed.put(std::as_bytes(std::span(info)))});
    };
    if (!thread.stop_siginfo().empty()) queue(thread.stop_siginfo());
    for (const std::string& info : thread.pending_siginfo()) queue(info);
    seed.perform();
  }
}

void RestoredTree::finish(const pb::Process& process) {
  for (const pb::Thread& thread : process.threads())
    seed_of(thread).task().set_signal_mask(kAllSignals);
  queue_signals(process);
  Seed& leader = seed_of(process);
  start_timers(process, leader);
  leader.unplant();
  bool stopped = false;
  for (const pb::Thread& thread : process.threads()) {
    set_program_registers(snapshot_, process, thread, seed_of(thread).task());
    stopped |= thread.job_stopped();
  }
  if (stopped) ::kill(leader.tid().value, SIGSTOP);
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

// Those that run already may end the others at once. Who is killed while we still trace it is not
// gone for its own tree before we have waited for it; a first thread only after all others.
void RestoredTree::release() {
  if (!lazy_.empty()) bring_memory_later();
  keeper_->let_go();
  std::vector<Seed> killed;
  // Threads and children before those that made them: they are the more likely to look at others.
  for (auto& [number, seed] : seeds_ | std::views::reverse)
    if (!seed.task().detach_if_alive(0)) killed.push_back(std::move(seed));
  seeds_.clear();
  constexpr int kTries = 5000;
  for (int i = 0; i < kTries && !killed.empty(); ++i) {
    std::erase_if(killed, [](Seed& seed) {
      seed.task().poll_stop();
      return seed.task().status().gone();
    });
    if (!killed.empty()) ::usleep(1000);
  }
}

}  // namespace snapgdb
