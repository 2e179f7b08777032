#pragma once

#include "core/base/fd.h"

namespace snapgdb {

// What a descriptor of ours leads to, opened again (open(2), with O_CLOEXEC) by way of /proc,
// and so without O_NOFOLLOW. Invalid, with errno set, where that fails.
Fd reopened(const Fd& file, int flags);

// As long as it lives, reopened() works also where /proc is that of a pid namespace in which we are
// not. To be made before going there. One at a time, in a process of one thread. Throws
// SystemError.
class DescriptorsInReach {
 public:
  DescriptorsInReach();
  DescriptorsInReach(const DescriptorsInReach&) = delete;
  DescriptorsInReach& operator=(const DescriptorsInReach&) = delete;
  ~DescriptorsInReach();
};

}  // namespace snapgdb
