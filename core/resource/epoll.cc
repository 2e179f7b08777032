#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/image/snapshot.h"
#include "core/linux/task.h"
#include "core/resource/resources.h"
#include "core/resource/sharing.h"

namespace snapgdb {
namespace {

constexpr std::string_view kTarget = "anon_inode:[eventpoll]";

bool matches(const OpenDescriptor& open) {
  return open.target == kTarget;
}

// What is watched goes by the number that it had when it was added. It may be open under another
// one by now, and that be something else's: then the description is told; or under none at all.
void find_watched(CaptureContext& context, const OpenDescriptor& open, uint32_t nth,
                  pb::Epoll::Target& target) {
  const ProcDirectory& proc = open.process.task_proc;
  const Tid task = open.process.a_task();
  const EpollSlot slot{task, open.number, target.fd(), nth};
  const auto is_it = [&](int number) {
    struct stat status {};
    return ::fstatat(proc.fd(), fmt::format("fd/{}", number).c_str(), &status, 0) == 0 &&
           status.st_ino == target.inode() && leads_to(task, number, slot);
  };
  if (is_it(target.fd()) || !may_compare_files(task, open.number)) return;
  for (const std::string& name : proc.list("fd"))
    if (const auto number = parse_number<int>(name); number && is_it(*number))
      return target.set_description(context.descriptions.of(task, *number));
  target.set_elsewhere(true);
}

// Whether an epoll, or one that it watches, may watch a signalfd. Such a one must not be asked: it
// looks for signals of whoever asks, and where there are none, forgets that there was something to
// be told of (ep_send_events(), fs/eventpoll.c). Kinds without inodes of their own have the same
// one, `inode`.
bool may_watch_signals(const ProcDirectory& proc, std::string_view info, uint64_t inode,
                       int depth = 0) {
  constexpr int kMaxDepth = 5;  // EP_MAX_NESTS, and the first
  const auto may = [&](std::string_view line) {
    const auto pairs = key_value_pairs(line);
    if (!line.starts_with("tfd:") || pair_number(pairs, "ino", 16) != inode) return false;
    const auto number = pair_number(pairs, "tfd");
    const auto link = proc.link_if_allowed(fmt::format("fd/{}", number));
    if (link != kTarget) return !link || *link == "anon_inode:[signalfd]";
    const auto inner = proc.read_if_allowed(fmt::format("fdinfo/{}", number).c_str());
    return depth == kMaxDepth || !inner || may_watch_signals(proc, *inner, inode, depth + 1);
  };
  return std::ranges::any_of(split(info, '\n'), may);
}

// Whether asking it matters to a restore, and is harmless.
bool is_to_be_asked(const OpenDescriptor& open, const pb::Epoll& epoll) {
  const uint64_t anonymous = open.status.st_ino;
  const auto tells_of_changes = [](const auto& target) { return target.events() & EPOLLET; };
  const auto is_unknown = [&](const pb::Epoll::Target& target) {
    return target.inode() == anonymous && (target.elsewhere() || target.description());
  };
  return std::ranges::any_of(epoll.targets(), tells_of_changes) &&
         std::ranges::none_of(epoll.targets(), is_unknown) &&
         !may_watch_signals(open.process.task_proc, open.info_text, anonymous);
}

// Whether there is something to be told of: who asks takes nothing away.
bool is_ready(const FrozenProcess& process, int number) {
  const Fd same = duplicate_descriptor(process.a_task(), number);
  pollfd asked{.fd = same.get(), .events = POLLIN, .revents = 0};
  return !same.valid() || ::poll(&asked, 1, 0) > 0;
}

// One line a target: "tfd:  5 events:  19 data: 5  pos:0 ino:1234 sdev:8"; all but tfd and pos in
// hexadecimal (fs/eventpoll.c, ep_show_fdinfo).
void capture(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::Epoll& epoll = *out.mutable_epoll();
  std::map<int32_t, uint32_t> times;  // that a number was watched
  for (const std::string_view line : split(open.info_text, '\n')) {
    if (!line.starts_with("tfd:")) continue;
    const auto pairs = key_value_pairs(line);
    pb::Epoll::Target& target = *epoll.add_targets();
    target.set_fd(static_cast<int32_t>(pair_number(pairs, "tfd")));
    target.set_events(static_cast<uint32_t>(pair_number(pairs, "events", 16)));
    target.set_data(pair_number(pairs, "data", 16));
    target.set_inode(pair_number(pairs, "ino", 16));
    find_watched(context, open, times[target.fd()]++, target);
  }
  epoll.set_ready(!is_to_be_asked(open, epoll) || is_ready(open.process, open.number));
}

// ---- By a number of another process, or in a message --------------------------------------------

// What leads to a description.
struct Holder {
  Tid tid;
  int number = 0;
};

// Those in messages are ours as long as the tree is stopped.
Holder holder_of(const CaptureContext& context, const FrozenProcess& process,
                 const pb::Descriptor& descriptor) {
  if (descriptor.number() != kInFlight) return {process.a_task(), descriptor.number()};
  return {leader_of(Pid{::getpid()}), context.in_flight_files.at(descriptor.description()).get()};
}

// By inode: many kinds have the same one.
std::multimap<uint64_t, std::pair<Holder, uint32_t>> all_files(
    const CaptureContext& context, const std::vector<pb::Process>& processes) {
  std::multimap<uint64_t, std::pair<Holder, uint32_t>> files;
  for (size_t i = 0; i < processes.size(); ++i)
    for_each_descriptor(processes[i], [&](const pb::Descriptor& descriptor) {
      files.emplace(descriptor.inode(),
                    std::pair(holder_of(context, context.tree.processes[i], descriptor),
                              descriptor.description()));
    });
  return files;
}

// ---- Restoring ----------------------------------------------------------------------------------

const pb::Descriptor* find(const pb::Process& process, int32_t number) {
  const auto found = std::ranges::find(process.descriptors(), number, &pb::Descriptor::number);
  return found == process.descriptors().end() ? nullptr : &*found;
}

bool is_known(const Snapshot& snapshot, uint32_t description) {
  bool known = false;
  for (const pb::Process& process : snapshot.processes())
    for_each_descriptor(process, [&](const pb::Descriptor& descriptor) {
      known |= descriptor.description() == description;
    });
  return known;
}

// Who adds to an epoll what it watches: a process that knows all of that, by its numbers or by
// description; and its record of the epoll.
struct Watcher {
  const pb::Process* process = nullptr;  // nullptr: nobody can
  const pb::Descriptor* epoll = nullptr;
};
Watcher watcher(const Snapshot& snapshot, uint32_t description) {
  Watcher watcher;
  for (const pb::Process& process : snapshot.processes()) {
    if (is_zombie(process) || !is_last_to_share(snapshot, process, kDescriptors)) continue;
    const auto knows = [&](const pb::Epoll::Target& target) {
      if (target.description()) return is_known(snapshot, target.description());
      const pb::Descriptor* descriptor = find(process, target.fd());
      return !target.elsewhere() && descriptor && descriptor->inode() == target.inode();
    };
    for_each_descriptor(process, [&](const pb::Descriptor& epoll) {
      if (!watcher.process && epoll.description() == description &&
          std::ranges::all_of(epoll.epoll().targets(), knows))
        watcher = {&process, &epoll};
    });
  }
  return watcher;
}

std::string obstacle(const Snapshot& snapshot, const pb::Descriptor& epoll) {
  return watcher(snapshot, epoll.description()).process
             ? ""
             : "it watches something of which no descriptor is left";
}

Fd open_epoll(OpeningContext&, const pb::Descriptor&) {
  Fd fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!fd.valid()) throw_errno("cannot make an epoll");
  return fd;
}

// While it is there, what is watched has the number by which it was added.
class Renumbered {
 public:
  Renumbered(const RestorePlan& plan, const pb::Process& process, const pb::Epoll::Target& target,
             Seed& seed)
      : plan_(plan), process_(process), target_(target), seed_(seed) {
    if (target.description()) duplicate(file_of(target.description()), 0);
  }
  ~Renumbered() {
    if (!target_.description()) return;
    if (const pb::Descriptor* now = find(process_, target_.fd()))
      duplicate(plan_.file_of(*now), now->close_on_exec() ? O_CLOEXEC : 0);
    else
      seed_.add("close a descriptor", SYS_close, {static_cast<uint64_t>(target_.fd())});
  }
  Renumbered(const Renumbered&) = delete;
  Renumbered& operator=(const Renumbered&) = delete;

 private:
  int file_of(uint32_t description) const {
    return plan_.file_base + static_cast<int>(plan_.by_description.at(description));
  }
  void duplicate(int file, uint64_t flags) {
    seed_.add("number a descriptor", SYS_dup3,
              {static_cast<uint64_t>(file), static_cast<uint64_t>(target_.fd()), flags});
  }
  const RestorePlan& plan_;
  const pb::Process& process_;
  const pb::Epoll::Target& target_;
  Seed& seed_;
};

// Each epoll of the plan, and its number in every process that has the plan's files.
void for_each_epoll(const RestorePlan& plan, const auto& work) {
  for (size_t i = 0; i < plan.files.size(); ++i) {
    const pb::Descriptor* descriptor = plan.files[i].descriptor;
    if (descriptor && descriptor->has_epoll() && plan.files[i].how == PlannedFile::How::kOpened)
      work(*descriptor, plan.file_base + static_cast<int>(i));
  }
}

// The flags that are not events (EP_PRIVATE_BITS, fs/eventpoll.c).
constexpr uint32_t kFlags = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE;
constexpr uint32_t kTellable = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLERR | EPOLLHUP;

// By EPOLLONESHOT: something was told, and nothing more will be until somebody asks again.
bool is_disarmed(const pb::Epoll::Target& target) {
  return (target.events() & EPOLLONESHOT) && !(target.events() & ~kFlags);
}

class Watching {
 public:
  Watching(RestoreContext& context, const pb::Process& process, Seed& seed, int epoll)
      : context_(context), process_(process), seed_(seed), epoll_(static_cast<uint64_t>(epoll)) {}

  void add(const pb::Epoll::Target& target) {
    const Renumbered as_it_was(context_.plan, process_, target, seed_);
    seed_.add_if_allowed(words_for(target), SYS_epoll_ctl,
                         {epoll_, EPOLL_CTL_ADD, static_cast<uint64_t>(target.fd()),
                          event_of(target, target.events())});
  }

  // Whatever is added is armed, if only for errors: so it has to tell something. Before all others
  // are added, since they would tell it, too.
  void add_disarmed(const pb::Epoll::Target& target) {
    const Renumbered as_it_was(context_.plan, process_, target, seed_);
    if (const int64_t added = control(EPOLL_CTL_ADD, target, target.events() | kTellable);
        added < 0)
      return note(
          fmt::format("cannot {}: {}", words_for(target), errno_text(static_cast<int>(-added))));
    if (seed_.try_call(SYS_epoll_wait, {epoll_, event_of(target, 0), 1, 0}) == 1) return;
    control(EPOLL_CTL_MOD, target, target.events());
    note(fmt::format(
        "descriptor {} had been told of (EPOLLONESHOT), and will be told of again should it fail "
        "or hang up",
        target.fd()));
  }

 private:
  static std::string words_for(const pb::Epoll::Target& target) {
    return fmt::format("watch descriptor {} again", target.fd());
  }
  uint64_t event_of(const pb::Epoll::Target& target, uint32_t events) {
    epoll_event event{};
    event.events = events, event.data.u64 = target.data();
    return seed_.put_value(event);
  }
  int64_t control(uint64_t how, const pb::Epoll::Target& target, uint32_t events) {
    return seed_.try_call(
        SYS_epoll_ctl, {epoll_, how, static_cast<uint64_t>(target.fd()), event_of(target, events)});
  }
  void note(const std::string& text) {
    context_.notes.push_back(fmt::format("process {}: {}", process_.pid(), text));
  }

  RestoreContext& context_;
  const pb::Process& process_;
  Seed& seed_;
  uint64_t epoll_;
};

// Whether all that it watches is what it was, and something of it tells of changes only (EPOLLET).
bool tells_of_changes(const RestoreContext& context, const pb::Descriptor& epoll) {
  const Watcher found = watcher(context.snapshot, epoll.description());
  if (!found.process) return false;
  const auto is_as_it_was = [&](const pb::Epoll::Target& target) {
    const uint32_t description = target.description()
                                     ? target.description()
                                     : find(*found.process, target.fd())->description();
    const size_t file = context.plan.by_description.at(description);
    return context.plan.files[file].how == PlannedFile::How::kOpened;
  };
  const auto& targets = found.epoll->epoll().targets();
  return std::ranges::all_of(targets, is_as_it_was) &&
         std::ranges::any_of(targets, [](const auto& target) { return target.events() & EPOLLET; });
}

uint32_t flags_kept(const std::string& info) {
  uint32_t flags = 0;
  for (const std::string_view line : split(info, '\n'))
    if (line.starts_with("tfd:"))
      flags |= static_cast<uint32_t>(pair_number(key_value_pairs(line), "events", 16));
  return flags;
}

}  // namespace

void find_watched_elsewhere(CaptureContext& context, std::vector<pb::Process>& processes) {
  std::multimap<uint64_t, std::pair<Holder, uint32_t>> files;
  const auto find = [&](const FrozenProcess& frozen, pb::Descriptor& epoll) {
    std::map<int32_t, uint32_t> times;
    for (pb::Epoll::Target& target : *epoll.mutable_epoll()->mutable_targets()) {
      const uint32_t nth = times[target.fd()]++;
      // In a message: what has that number among our own descriptors is the same by chance at most.
      if (epoll.number() == kInFlight) target.set_elsewhere(true);
      if (!target.elsewhere()) continue;
      if (files.empty()) files = all_files(context, processes);
      const Holder holder = holder_of(context, frozen, epoll);
      const EpollSlot slot{holder.tid, holder.number, target.fd(), nth};
      const auto [begin, end] = files.equal_range(target.inode());
      const auto found = std::find_if(begin, end, [&](const auto& file) {
        return leads_to(file.second.first.tid, file.second.first.number, slot);
      });
      if (found != end) target.set_description(found->second.second);
    }
  };
  for (size_t i = 0; i < processes.size(); ++i) {
    for (auto* list : {processes[i].mutable_descriptors(), processes[i].mutable_in_flight()})
      for (pb::Descriptor& descriptor : *list)
        if (descriptor.has_epoll()) find(context.tree.processes[i], descriptor);
  }
}

void ask_epolls_again(const CaptureContext& context, std::vector<pb::Process>& processes) {
  for (size_t i = 0; i < processes.size(); ++i)
    for (pb::Descriptor& descriptor : *processes[i].mutable_descriptors())
      if (descriptor.has_epoll() && !descriptor.epoll().ready())
        descriptor.mutable_epoll()->set_ready(
            is_ready(context.tree.processes[i], descriptor.number()));
}

// What is ready is told once more, also to who asked for changes only (EPOLLET), where there was
// something to be told.
void watch_again(RestoreContext& context, const pb::Process& process, Seed& seed) {
  for_each_epoll(context.plan, [&](const pb::Descriptor& descriptor, int number) {
    const Watcher found = watcher(context.snapshot, descriptor.description());
    if (found.process != &process) return;
    Watching watching(context, process, seed, number);
    const auto& targets = found.epoll->epoll().targets();
    for (const pb::Epoll::Target& target : targets)
      if (is_disarmed(target)) watching.add_disarmed(target);
    for (const pb::Epoll::Target& target : targets)
      if (!is_disarmed(target)) watching.add(target);
  });
  context.perform(seed, process.pid());
}

void settle_epolls(RestoreContext& context) {
  for_each_epoll(context.plan, [&](const pb::Descriptor& descriptor, int number) {
    const Fd epoll = duplicate_descriptor(context.keeper, number);
    if (!epoll.valid()) throw_errno("cannot reach an epoll");
    const auto& targets = descriptor.epoll().targets();
    std::vector<epoll_event> events(std::max<size_t>(static_cast<size_t>(targets.size()), 1));
    if (!descriptor.epoll().ready() && tells_of_changes(context, descriptor) &&
        ::epoll_wait(epoll.get(), events.data(), static_cast<int>(events.size()), 0) < 0)
      throw_errno("cannot ask an epoll");
    uint32_t wanted = 0;
    for (const pb::Epoll::Target& target : targets) wanted |= target.events();
    const std::string info =
        ProcDirectory::of(Pid{::getpid()}).read(fmt::format("fdinfo/{}", epoll.get()).c_str());
    if (wanted & ~flags_kept(info) & EPOLLWAKEUP)
      context.notes.push_back(fmt::format(
          "{}: what it watches does not keep the machine awake (EPOLLWAKEUP): that takes "
          "CAP_BLOCK_SUSPEND",
          called(descriptor)));
  });
}

const DescriptorRestorer kEpollRestorer{pb::Descriptor::kEpoll, obstacle, open_epoll};
const DescriptorResource kEpoll{"epoll", matches, capture};

}  // namespace snapgdb
