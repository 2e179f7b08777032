#include "core/resource/resources.h"

namespace snapgdb {
namespace {

bool matches(const OpenDescriptor&) {
  return true;
}

// io_uring, perf, bpf, userfaultfd, fanotify, namespaces …: described in the kernel's own words.
void capture(CaptureContext&, const OpenDescriptor& open, pb::Descriptor& out) {
  out.mutable_other()->set_what(open.target);
  out.mutable_other()->set_fdinfo(std::string(open.info_text));
}

}  // namespace

const DescriptorResource kOther{"other", matches, capture};

}  // namespace snapgdb
