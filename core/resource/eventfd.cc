#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/base/error.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

bool matches(const OpenDescriptor& open) {
  return open.target == "anon_inode:[eventfd]";
}

void capture(CaptureContext&, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::EventFd& eventfd = *out.mutable_eventfd();
  eventfd.set_count(open.info.number("eventfd-count", 16));
  eventfd.set_semaphore(open.info.number("eventfd-semaphore") != 0);
}

// ---- Restoring ----------------------------------------------------------------------------------

std::string obstacle(const Snapshot&, const pb::Descriptor&) {
  return "";
}

Fd open_eventfd(OpeningContext&, const pb::Descriptor& descriptor) {
  const pb::EventFd& from = descriptor.eventfd();
  Fd fd(::eventfd(0, EFD_CLOEXEC | (from.semaphore() ? EFD_SEMAPHORE : 0) |
                         (descriptor.flags() & O_NONBLOCK ? EFD_NONBLOCK : 0)));
  const uint64_t count = from.count();
  if (!fd.valid() || (count && ::write(fd.get(), &count, sizeof count) != sizeof count))
    throw_errno("cannot make an eventfd");
  return fd;
}

}  // namespace

const DescriptorRestorer kEventFdRestorer{pb::Descriptor::kEventfd, obstacle, open_eventfd};
const DescriptorResource kEventFd{"eventfd", matches, capture};

}  // namespace snapgdb
