#include <sys/epoll.h>
#include <sys/syscall.h>

#include <algorithm>
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

// One line a target: "tfd:  5 events:  19 data: 5  pos:0 ino:1234 sdev:8"; all but tfd and pos in
// hexadecimal (fs/eventpoll.c, ep_show_fdinfo).
void capture(CaptureContext&, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::Epoll& epoll = *out.mutable_epoll();
  for (const std::string_view line : split(open.info_text, '\n')) {
    if (!line.starts_with("tfd:")) continue;
    const auto pairs = key_value_pairs(line);
    pb::Epoll::Target& target = *epoll.add_targets();
    target.set_fd(static_cast<int32_t>(pair_number(pairs, "tfd")));
    target.set_events(static_cast<uint32_t>(pair_number(pairs, "events", 16)));
    target.set_data(pair_number(pairs, "data", 16));
    target.set_inode(pair_number(pairs, "ino", 16));
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
