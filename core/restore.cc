#include "core/restore.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <ranges>
#include <set>
#include <utility>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/freezer.h"
#include "core/linux/page_server.h"
#include "core/linux/system_call_filter.h"
#include "core/linux/task.h"
#include "core/resource/mounts.h"
#include "core/resource/namespaces.h"
#include "core/resource/network.h"
#include "core/resource/sharing.h"
#include "core/resource/signal_queue.h"
#include "core/resource/spaces.h"
#include "core/resource/stopping.h"
#include "core/resource/terminal.h"

namespace snapgdb {
namespace {

constexpr uint64_t kThread =
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
constexpr uint64_t kAllSignals = ~uint64_t{0};
// A trap that is blocked or ignored would lose its action (force_sig_info_to_task(),
// kernel/signal.c).
constexpr uint64_t kAllButTraps = kAllSignals & ~(uint64_t{1} << (SIGTRAP - 1));

bool is_zombie(const pb::Process& process) {
  return process.state() == "Z";
}

uint64_t ipc_of(const pb::Process& process) {
  return namespace_in(process.namespaces(), "ipc");
}

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

// It, or one above it: to users whom the tree's user namespace does not have.
bool belongs_to_others(const RestorePlan& plan, std::filesystem::path directory) {
  const auto is_other = [&](uint32_t user) {
    return ::geteuid() == 0 ? plan.numbers.user(user) == UserNumbers::kNone : user != ::geteuid();
  };
  struct stat status {};
  for (; directory.has_relative_path(); directory = directory.parent_path())
    if (::stat(directory.c_str(), &status) == 0 && is_other(status.st_uid)) return true;
  return false;
}

// Where the tree is likely to write.
std::set<std::string> written_directories(const Snapshot& snapshot, const RestorePlan& plan) {
  std::set<std::string> directories;
  for (const pb::Process& process : snapshot.processes()) {
    const pb::NamespaceState* mounts = planned_mounts(snapshot, plan, process);
    const auto add = [&](const std::string& path) {
      if (const auto outside = path_outside(mounts, path)) directories.insert(*outside);
    };
    add(process.working_directory());
    for_each_descriptor(process, [&](const pb::Descriptor& descriptor) {
      if (descriptor.has_file() && (descriptor.flags() & O_ACCMODE) != O_RDONLY)
        add(std::filesystem::path(descriptor.target()).parent_path());
      if (const std::string& name = descriptor.socket().file().path(); !name.empty())
        add(std::filesystem::path(name).parent_path());
    });
  }
  return directories;
}

// What the tree needs of a sandbox.
Sandbox::Options sandbox_for(const Snapshot& snapshot, const RestorePlan& plan) {
  Sandbox::Options options;
  if (plan.lazy) options.devices.emplace_back(kUserfaultDevice);
  std::ranges::copy_if(written_directories(snapshot, plan), std::back_inserter(options.directories),
                       [&](const auto& path) { return belongs_to_others(plan, path); });
  for (const PlannedFile& file : plan.files) {
    const bool is_device = file.descriptor && file.descriptor->has_device_node() &&
                           !file.descriptor->device_node().terminal();
    if (is_device)
      if (const auto outside = path_outside(planned_mounts(snapshot, plan, *file.descriptor),
                                            file.descriptor->target()))
        options.devices.push_back(*outside);
    if (file.replacement)
      options.replaced.push_back(
          path_outside(plan.mounts, file.mapping->name()).value_or(file.mapping->name()));
  }
  return options;
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

// In that many pid namespaces from its own up.
std::vector<int32_t> numbers_now(Tid tid, size_t levels) {
  const ProcFields status(ProcDirectory::of(Pid{tid.value}).read("status"));
  std::vector<int32_t> numbers;
  for (const std::string_view number : split_blank(status.text("NSpid")))
    numbers.insert(numbers.begin(), parse_number<int32_t>(number).value_or(0));
  numbers.resize(std::min(levels, numbers.size()));
  return numbers;
}

std::vector<Keeper::Options::Range> ranges_of(
    const google::protobuf::RepeatedPtrField<pb::IdRange>& ranges) {
  std::vector<Keeper::Options::Range> out;
  for (const pb::IdRange& range : ranges)
    out.push_back({range.inside(), range.outside(), range.count()});
  return out;
}

// What the namespaces of its own that the first process had hold.
void set_up_namespaces(const Snapshot& snapshot, const RestorePlan& plan,
                       Keeper::Options& options) {
  if (plan.user_space) {
    options.users = ranges_of(plan.user_space->users());
    options.groups = ranges_of(plan.user_space->groups());
    options.deny_setgroups = plan.user_space->setgroups_denied();
  }
  options.own_cgroups = plan.own_cgroups;
  if (plan.system_v.own_namespace)
    options.ipc_settings = settings_in(own_namespace(snapshot, snapshot.root(), "ipc"));
  if (plan.mounts)
    options.make_mounts = [&snapshot, &plan] {
      return make_mounts(mounts_for(snapshot, plan, *plan.mounts, plan.numbers).first);
    };
  if (plan.network)
    options.make_network = [&plan](const Fd& outside) {
      const OtherEnds ends{.outside = outside_ends(plan, *plan.network),
                           .outside_network = outside.get(),
                           .paired = paired_ends(plan, *plan.network, {})};
      return make_links(contents_of(plan.network->network(), plan.numbers).links, ends);
    };
  if (plan.names) options.names = {plan.names->host_name(), plan.names->domain_name()};
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

Fd open_parent(const std::string& path) {
  const std::string parent = std::filesystem::absolute(path).parent_path();
  Fd directory(::open(parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) throw_errno("cannot open {}", printable(parent));
  return directory;
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

void RestoredTree::start_keeper(const std::string& scratch) {
  const Fd save_in = scratch.empty() ? Fd() : open_parent(scratch);
  Keeper::Options options{
      .own_pids = own_pids_,
      .own_user = plan_.isolated || plan_.own_user || (own_pids_ && ::geteuid() != 0),
      .root_pid = own_number(snapshot_.root()),
      .seed_base = plan_.seed_base,
      .file_base = plan_.file_base,
      .user = plan_.user,
      .group = plan_.group,
      .save_in = save_in.get(),
      .save_as = std::filesystem::path(scratch).filename(),
      .monotonic_ns = tree_clock(snapshot_, CLOCK_MONOTONIC),
      .boottime_ns = tree_clock(snapshot_, CLOCK_BOOTTIME)};
  const Tid self = leader_of(Pid{::getpid()});
  options.our_clocks = {clock_offset(self, CLOCK_MONOTONIC), clock_offset(self, CLOCK_BOOTTIME)};
  set_up_namespaces(snapshot_, plan_, options);
  if (plan_.isolated) {
    options.sandbox = sandbox_for(snapshot_, plan_);
    if (!options.names)
      options.names = {snapshot_.record().host().node_name(), host_names().domain};
  }
  const uint64_t ipc = ipc_of(snapshot_.root());
  if (plan_.system_v.own_namespace)
    options.enter_ipc = [&] { make_ipc_objects(snapshot_, plan_, ipc); };
  else
    system_v_.make(snapshot_, plan_, ipc), message_queues_.make(plan_, ipc);
  cgroups_.make(snapshot_, plan_);
  OpeningContext opening{snapshot_, plan_};
  opening.numbers = plan_.numbers;
  opening.closes_connections = plan_.connections == RestorePlan::Connections::kClosed;
  prepare_shared_memory(opening, plan_);
  std::optional<NestedSpaces> spaces;
  options.make_spaces = [&] {
    spaces.emplace(snapshot_, plan_, options.our_clocks);
    std::vector<std::string> notes = spaces->notes();
    if (plan_.network)
      std::ranges::copy(fill_network(contents_of(plan_.network->network(), plan_.numbers)),
                        std::back_inserter(notes));
    return notes;
  };
  keeper_ = std::make_unique<Keeper>(options, [&](const Sandbox* sandbox) {
    OpeningContext context = std::move(opening);
    context.sandbox = sandbox;
    context.spaces = &*spaces;
    Keeper::OpenedFiles opened{open_files(context, plan_), {}};
    add_delivery_sockets(opened.files);
    spaces->add_to(opened.files);
    opened.notes = std::move(context.notes);
    return opened;
  });
  std::ranges::copy(keeper_->notes(), std::back_inserter(notes_));
  if (plan_.network)
    std::ranges::copy(connect_ends(outside_ends(plan_, *plan_.network)),
                      std::back_inserter(notes_));
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

// First the processes; so that parents, sessions and groups come about by
// themselves.
void RestoredTree::grow() {
  Seed root = keeper_->take_root();
  root_ = Pid{root.tid().value};
  cgroups_.put(plan_, snapshot_.root(), root_);
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
  if (has_filters(snapshot_)) suspend_filters(root.task());
  seeds_.emplace(tree_number(snapshot_, snapshot_.root()), std::move(root));
  for (const Birth& birth : plan_.births) step(birth);
  for (const pb::Process& process : snapshot_.processes()) {
    const bool leads = process.session() == process.pid() && !is_zombie(process);
    const auto master = leads ? master_for(snapshot_, plan_, process) : std::nullopt;
    const pb::Process* group = snapshot_.process(process.foreground_group());
    if (master && group)
      set_foreground(seed_of(process), *master, number_for(snapshot_, *group, process));
  }
  for (const pb::Process& process : snapshot_.processes())
    if (!is_zombie(process) && process.threads_size() == 1)
      give_children_pids(snapshot_, process, seed_of(process));
  RestoreContext shared = context();
  enter_mount_spaces(shared);
  for (const pb::Process& process : snapshot_.processes())
    if (!is_zombie(process)) enter_spaces(plan_, process, seed_of(process));
}

// Those that are there for a moment are as that one is.
int32_t RestoredTree::first_above(int32_t number) const {
  while (temporary_.contains(number)) number = temporary_.at(number);
  return number;
}

// Whose memory a child of that one is born with: of several that have it in common, the first
// restores it.
const pb::Process& RestoredTree::memory_giver(int32_t parent) const {
  return *std::ranges::find(snapshot_.processes(), process_of(first_above(parent)).address_space(),
                            &pb::Process::address_space);
}

// With the memory of its parent, so that both share what they shared; but not where that comes
// later only.
void RestoredTree::bear(const Birth& birth) {
  if (!plan_.lazy) {
    const pb::Process& giver = memory_giver(birth.other);
    restore_memory_of(giver);
    memory_from_[birth.pid] = &giver;
  }
  const pb::Process& process = process_of(birth.pid);
  const uint64_t flags = birth.shares | (begins_pids(snapshot_, process) ? CLONE_NEWPID : 0);
  seeds_.emplace(birth.pid, seeds_.at(birth.other)
                                .clone(fmt::format("make process {}", birth.pid), flags, SIGCHLD,
                                       all_numbers(snapshot_, process)));
  cgroups_.put(plan_, process, Pid{seeds_.at(birth.pid).tid().value});
  const uint64_t ipc = ipc_of(process);  // 0: it has exited
  if (ipc && ipc != ipc_of(process_of(first_above(birth.other))))
    enter_ipc(context(), process, seeds_.at(birth.pid));
}

// Nobody is sent a signal at its end.
void RestoredTree::bear_for_a_moment(const Birth& birth) {
  if (!plan_.lazy) restore_memory_of(memory_giver(birth.other));
  temporary_[birth.pid] = birth.other;
  const std::span<const int32_t> number(&birth.pid, birth.pid > 0 ? 1 : 0);
  seeds_.emplace(birth.pid,
                 seeds_.at(birth.other).clone("make a process for a moment", 0, 0, number));
}

void RestoredTree::end_temporary(const Birth& birth) {
  seeds_.at(birth.pid).end(0);
  seeds_.erase(birth.pid);
  temporary_.erase(birth.pid);
  constexpr auto kAnybody = static_cast<uint64_t>(-1);
  seeds_.at(birth.other)
      .call("reap a process that was there for a moment", SYS_wait4, {kAnybody, 0, __WCLONE, 0});
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

void RestoredTree::step(const Birth& birth) {
  const std::string name = fmt::format("process {}", birth.pid);
  switch (birth.step) {
    case Birth::Step::kClone:
      if (birth.other) bear(birth);
      break;
    case Birth::Step::kSetsid:
      seeds_.at(birth.pid).call("make a session of " + name, SYS_setsid);
      // One whose leader is gone has a leader for a moment that is in no record.
      if (const pb::Process* leader = find_process(birth.pid))
        if (const auto master = master_for(snapshot_, plan_, *leader))
          take_terminal(seeds_.at(birth.pid), *master);
      break;
    case Birth::Step::kSetpgid:
      join_group(birth);
      break;
    case Birth::Step::kExit:
      seeds_.at(birth.pid).end(process_of(birth.pid).exit_status());
      seeds_.erase(birth.pid);
      break;
    case Birth::Step::kTemporary:
      bear_for_a_moment(birth);
      break;
    case Birth::Step::kEnd:
      end_temporary(birth);
      break;
    case Birth::Step::kAdoptOrphans:
      seeds_.at(birth.pid).call("have " + name + " adopt orphans", SYS_prctl,
                                {PR_SET_CHILD_SUBREAPER, static_cast<uint64_t>(birth.other)});
      break;
  }
}

// By itself; or by its parent, if it is in a pid namespace where the group has no number. (To the
// kernel, none of them has executed a program since it was born.)
void RestoredTree::join_group(const Birth& birth) {
  const std::string what = fmt::format("put process {} into its group", birth.pid);
  const pb::Process *process = find_process(birth.pid), *leader = find_process(birth.other);
  const auto join = [&](int32_t of, int32_t number, int32_t group) {
    seeds_.at(of).call(what, SYS_setpgid,
                       {static_cast<uint64_t>(number), static_cast<uint64_t>(group)});
  };
  if (!process || !leader) return join(birth.pid, 0, birth.other);
  const pid_t wanted = seeds_.at(birth.other).tid().value;
  if (::getpgid(seeds_.at(birth.pid).tid().value) == wanted) return;  // it was born into it
  if (const int32_t group = number_for(snapshot_, *leader, *process))
    return join(birth.pid, 0, group);
  const pb::Process* parent = snapshot_.process(process->parent());
  if (const int32_t group = parent ? number_for(snapshot_, *leader, *parent) : 0)
    return join(tree_number(snapshot_, *parent), number_for(snapshot_, *process, *parent), group);
  notes_.push_back(
      fmt::format("process {} stays in the group of its parent: that of {} has no number in their "
                  "pid namespace",
                  process->pid(), process->group()));
}

// Before anything that might forbid them, as limits do. They wait, while the first one does the
// work.
void RestoredTree::make_threads(const pb::Process& process) {
  for (const pb::Thread& thread : process.threads())
    if (thread.tid() != process.pid())
      seeds_.emplace(tree_number(snapshot_, thread), make_thread(process, thread));
  for (const pb::Thread& thread : process.threads())
    cgroups_.put(plan_, thread, seed_of(thread).tid());
}

Seed RestoredTree::make_thread(const pb::Process& process, const pb::Thread& thread) {
  Seed& leader = seed_of(process);
  const std::string what = fmt::format("make thread {} of process {}", thread.tid(), process.pid());
  const std::vector<int32_t> numbers = all_numbers(snapshot_, thread);
  if (!has_user_space(plan_, process)) return leader.clone(what, kThread, 0, numbers);
  // Who has no rights outside may choose no numbers there, and who has threads cannot give up its
  // rights: so it is us who choose. Somebody else may take the number meanwhile.
  constexpr int kTries = 100;
  for (int i = 0; i < kTries; ++i) {
    Fd pids = ProcDirectory::of(Pid{leader.tid().value}).open("ns/pid", O_RDONLY);
    for (const int32_t number : numbers) choose_next_number(pids, number), pids = parent_of(pids);
    Seed made = leader.clone(what, kThread, 0);
    if (numbers_now(made.tid(), numbers.size()) == numbers) return made;
    made.end_alone(0);
  }
  throw SystemError("cannot " + what + ", whose number is taken again and again", EEXIST);
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
}

void RestoredTree::finish(const pb::Process& process) {
  for (const pb::Thread& thread : process.threads())
    seed_of(thread).task().set_signal_mask(kAllButTraps);
  Seed& leader = seed_of(process);
  start_timers(process, leader);
  queue_signals(process);
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
