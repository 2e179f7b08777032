#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/resource/resources.h"
#include "core/resource/sharing.h"

namespace snapgdb {
namespace {

bool matches(const OpenDescriptor& open) {
  return open.target == "anon_inode:[eventpoll]";
}

// What is watched goes by the number that it had when it was added. It may be open under another
// one by now, and that be something else's: then the id of its description. `nth`: of several that
// are watched by the same number. 0: it is what that number says, or nobody knows.
uint32_t renumbered(CaptureContext& context, const OpenDescriptor& open,
                    const pb::Epoll::Target& target, uint32_t nth) {
  const ProcDirectory& proc = open.process.task_proc;
  const Tid task = open.process.a_task();
  const auto is_it = [&](int number) {
    struct stat status {};
    return ::fstatat(proc.fd(), fmt::format("fd/{}", number).c_str(), &status, 0) == 0 &&
           status.st_ino == target.inode() &&
           is_watched_by(task, open.number, target.fd(), nth, number);
  };
  if (is_it(target.fd())) return 0;
  for (const std::string& name : proc.list("fd"))
    if (const auto number = parse_number<int>(name); number && is_it(*number))
      return context.descriptions.of(task, *number);
  return 0;
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
    target.set_description(renumbered(context, open, target, times[target.fd()]++));
  }
}

// ---- Restoring ----------------------------------------------------------------------------------

const pb::Descriptor* find(const pb::Process& process, int32_t number) {
  const auto found = std::ranges::find(process.descriptors(), number, &pb::Descriptor::number);
  return found == process.descriptors().end() ? nullptr : &*found;
}

bool holds(const pb::Process& process, uint32_t description) {
  return std::ranges::any_of(process.descriptors(), [&](const pb::Descriptor& descriptor) {
    return descriptor.description() == description;
  });
}

// What is watched is known by its number in the table of who added it: the first process that has
// it, and under these numbers what is watched. nullptr: there is none.
const pb::Process* watcher(const Snapshot& snapshot, const pb::Descriptor& epoll) {
  const auto has = [](const pb::Process& process, const pb::Epoll::Target& target) {
    if (target.description()) return holds(process, target.description());
    const pb::Descriptor* descriptor = find(process, target.fd());
    return descriptor && descriptor->inode() == target.inode();
  };
  for (const pb::Process& process : snapshot.processes())
    if (process.state() != "Z" && is_last_to_share(snapshot, process, kDescriptors) &&
        holds(process, epoll.description()) &&
        std::ranges::all_of(epoll.epoll().targets(),
                            [&](const auto& target) { return has(process, target); }))
      return &process;
  return nullptr;
}

std::string obstacle(const Snapshot& snapshot, const pb::Descriptor& epoll) {
  return epoll.epoll().targets().empty() || watcher(snapshot, epoll)
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

}  // namespace

// What is ready is told once more, also to who asked for changes only (EPOLLET).
void watch_again(RestoreContext& context, const pb::Process& process, Seed& seed) {
  std::set<uint32_t> done;
  for (const pb::Descriptor& epoll : process.descriptors()) {
    const int file = context.plan.file_of(epoll) - context.plan.file_base;
    if (!epoll.has_epoll() || !done.insert(epoll.description()).second ||
        context.plan.files[static_cast<size_t>(file)].how != PlannedFile::How::kOpened ||
        watcher(context.snapshot, epoll) != &process)
      continue;
    for (const pb::Epoll::Target& target : epoll.epoll().targets()) {
      const Renumbered as_it_was(context.plan, process, target, seed);
      epoll_event event{};
      event.events = target.events(), event.data.u64 = target.data();
      seed.add_if_allowed(fmt::format("watch descriptor {} by {}", target.fd(), epoll.number()),
                          SYS_epoll_ctl,
                          {static_cast<uint64_t>(epoll.number()), EPOLL_CTL_ADD,
                           static_cast<uint64_t>(target.fd()), seed.put_value(event)});
    }
  }
  context.perform(seed, process.pid());
}

const DescriptorRestorer kEpollRestorer{pb::Descriptor::kEpoll, obstacle, open_epoll};
const DescriptorResource kEpoll{"epoll", matches, capture};

}  // namespace snapgdb
