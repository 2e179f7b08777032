#include "core/linux/reopened.h"

#include <fcntl.h>

#include <string>

#include "core/base/error.h"

namespace snapgdb {
namespace {

constexpr const char* kOwn = "/proc/self/fd";
Fd own_descriptors;  // that directory, while it may be out of reach

}  // namespace

// The way leads over a link: with O_NOFOLLOW it would be ELOOP, or, with O_PATH too, the link
// itself. That the file was opened so is lost to F_GETFL, since F_SETFL does not set it; of what is
// open it changes nothing.
Fd reopened(const Fd& file, int flags) {
  flags = (flags & ~O_NOFOLLOW) | O_CLOEXEC;
  const std::string number = std::to_string(file.get());
  return own_descriptors.valid() ? Fd(::openat(own_descriptors.get(), number.c_str(), flags))
                                 : Fd(::open((std::string(kOwn) + "/" + number).c_str(), flags));
}

DescriptorsInReach::DescriptorsInReach() {
  own_descriptors = Fd(::open(kOwn, O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!own_descriptors.valid()) throw_errno("cannot open {}", kOwn);
}

DescriptorsInReach::~DescriptorsInReach() {
  own_descriptors.reset();
}

}  // namespace snapgdb
