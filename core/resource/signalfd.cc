#include "core/resource/resources.h"

namespace snapgdb {
namespace {

bool matches(const OpenDescriptor& open) {
  return open.target == "anon_inode:[signalfd]";
}

void capture(CaptureContext&, const OpenDescriptor& open, pb::Descriptor& out) {
  out.mutable_signalfd()->set_mask(open.info.number("sigmask", 16));
}

}  // namespace

const DescriptorResource kSignalFd{"signalfd", matches, capture};

}  // namespace snapgdb
