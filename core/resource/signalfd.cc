#include <fcntl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/error.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

bool matches(const OpenDescriptor& open) {
  return open.target == "anon_inode:[signalfd]";
}

void capture(CaptureContext&, const OpenDescriptor& open, pb::Descriptor& out) {
  out.mutable_signalfd()->set_mask(open.info.number("sigmask", 16));
}

// ---- Restoring ----------------------------------------------------------------------------------

std::string obstacle(const Snapshot&, const pb::Descriptor&) {
  return "";
}

// What it gives are the signals queued for whoever reads it. The C library keeps two signals for
// itself, so its own function would not do.
Fd open_signalfd(OpeningContext&, const pb::Descriptor& descriptor) {
  const uint64_t mask = descriptor.signalfd().mask();
  const int flags = SFD_CLOEXEC | (descriptor.flags() & O_NONBLOCK ? SFD_NONBLOCK : 0);
  Fd fd(static_cast<int>(::syscall(SYS_signalfd4, -1, &mask, sizeof mask, flags)));
  if (!fd.valid()) throw_errno("cannot make a signalfd");
  return fd;
}

}  // namespace

const DescriptorRestorer kSignalFdRestorer{pb::Descriptor::kSignalfd, obstacle, open_signalfd};
const DescriptorResource kSignalFd{"signalfd", matches, capture};

}  // namespace snapgdb
