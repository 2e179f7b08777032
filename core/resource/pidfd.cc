#include "core/base/strings.h"
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
}

}  // namespace

const DescriptorResource kPidFd{"pidfd", matches, capture};

}  // namespace snapgdb
