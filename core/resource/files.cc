#include <sys/sysmacros.h>

#include "core/resource/resources.h"

namespace snapgdb {
namespace {

// The major numbers of terminals (Documentation/admin-guide/devices.txt): tty, console and ptmx,
// and the 8 majors of pty slaves.
bool is_terminal(unsigned major) {
  return major == 4 || major == 5 || (major >= 136 && major < 144);
}

bool is_regular(const OpenDescriptor& open) {
  return S_ISREG(open.status.st_mode);
}

void capture_regular(CaptureContext&, const OpenDescriptor& open, pb::Descriptor& out) {
  out.mutable_file()->set_unlinked(open.status.st_nlink == 0);
}

bool is_directory(const OpenDescriptor& open) {
  return S_ISDIR(open.status.st_mode);
}

void capture_directory(CaptureContext&, const OpenDescriptor&, pb::Descriptor& out) {
  out.mutable_directory();
}

bool is_device(const OpenDescriptor& open) {
  return S_ISCHR(open.status.st_mode) || S_ISBLK(open.status.st_mode);
}

void capture_device(CaptureContext&, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::Device& device = *out.mutable_device_node();
  device.set_block(S_ISBLK(open.status.st_mode));
  device.set_major(major(open.status.st_rdev));
  device.set_minor(minor(open.status.st_rdev));
  device.set_terminal(!device.block() && is_terminal(device.major()));
}

}  // namespace

const DescriptorResource kRegularFile{"file", is_regular, capture_regular};
const DescriptorResource kDirectory{"directory", is_directory, capture_directory};
const DescriptorResource kDevice{"device", is_device, capture_device};

}  // namespace snapgdb
