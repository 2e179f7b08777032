#include <fcntl.h>
#include <sys/ioctl.h>

#include "core/resource/resources.h"

namespace snapgdb {
namespace {

bool matches(const OpenDescriptor& open) {
  return S_ISFIFO(open.status.st_mode);
}

// Both ends have the same inode; the access mode tells which end this is.
void capture(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::Pipe& pipe = *out.mutable_pipe();
  pipe.set_fifo(!open.target.starts_with("pipe:["));
  const Fd end = duplicate_descriptor(open.process.a_task(), open.number);
  int queued = 0;
  const int capacity = end.valid() ? ::fcntl(end.get(), F_GETPIPE_SZ) : -1;
  if (capacity < 0 || ::ioctl(end.get(), FIONREAD, &queued) != 0) {
    context.lacks(open.process.pid, {}, "queue of " + open.target, "pidfd_getfd(2) is refused");
    return;
  }
  pipe.set_capacity(static_cast<uint32_t>(capacity));
  pipe.set_queued(static_cast<uint32_t>(queued));
}

}  // namespace

const DescriptorResource kPipe{"pipe", matches, capture};

}  // namespace snapgdb
