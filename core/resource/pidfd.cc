#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/task.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

// "pid:[N]" since pidfs (Linux 6.9), "anon_inode:[pidfd]" before.
bool matches(const OpenDescriptor& open) {
  return open.target == "anon_inode:[pidfd]" || !open.info.text("Pid").empty();
}

void capture(CaptureContext&, const OpenDescriptor& open, pb::Descriptor& out) {
  // -1: the process is gone; 0: it is outside our pid namespace.
  out.mutable_pidfd()->set_pid(parse_number<int32_t>(open.info.text("Pid")).value_or(0));
  out.mutable_pidfd()->set_of_thread(out.flags() & kPidfdThread);
}

// ---- Restoring ----------------------------------------------------------------------------------

// By which the opener knows it; 0: it is not of the tree, has ended, or is out of her sight.
int32_t number_of(const LateOpening& opening, const pb::PidFd& pidfd) {
  const Snapshot& snapshot = opening.context.snapshot;
  for (const pb::Process& process : snapshot.processes()) {
    if (process.pid() == pidfd.pid()) return number_for(snapshot, process, opening.process);
    const auto thread = std::ranges::find(process.threads(), pidfd.pid(), &pb::Thread::tid);
    if (pidfd.of_thread() && thread != process.threads().end())
      return number_for(snapshot, *thread, process, opening.process);
  }
  return 0;
}

std::string obstacle(const Snapshot&, const pb::Descriptor&) {
  return "";
}

// Something that stands for it until the tree is there.
Fd open_placeholder(OpeningContext&, const pb::Descriptor&) {
  Fd fd(::open("/", O_PATH | O_CLOEXEC));
  if (!fd.valid()) throw_errno("cannot open /");
  return fd;
}

// In the pid namespace of the tree. Without a signal at its end, which its parent would find.
LateOpening::Ended make_ended_process(Seed& parent) {
  Seed child = parent.clone("make a process that ends", 0, 0);
  const int64_t number = child.call("ask for its number", SYS_getpid);
  child.end(0);
  return {&parent, number};
}

Fd open_pidfd(LateOpening& opening, const pb::Descriptor& descriptor) {
  int64_t number = number_of(opening, descriptor.pidfd());
  if (number == 0) {
    LateOpening::Ended& ended = opening.ended[descriptor.inode()];
    if (!ended.parent) ended = make_ended_process(opening.opener);
    number = ended.number;
  }
  return opening.take(
      fmt::format("open process {}", number), SYS_pidfd_open,
      {static_cast<uint64_t>(number), descriptor.flags() & (O_NONBLOCK | kPidfdThread)});
}

}  // namespace

const DescriptorRestorer kPidFdRestorer{.kind = pb::Descriptor::kPidfd,
                                        .obstacle = obstacle,
                                        .open = open_placeholder,
                                        .open_late = open_pidfd};
const DescriptorResource kPidFd{"pidfd", matches, capture};

}  // namespace snapgdb
