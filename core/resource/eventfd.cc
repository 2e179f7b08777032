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

}  // namespace

const DescriptorResource kEventFd{"eventfd", matches, capture};

}  // namespace snapgdb
