#include "core/linux/reopened.h"

#include <fcntl.h>

#include <string>

#include "core/base/error.h"

namespace snapgdb {
namespace {

constexpr const char* kOwn = "/proc/self/fd";
Fd own_descriptors;  // that directory, while it may be out of reach

}  // namespace

Fd reopened(const Fd& file, int flags) {
  const std::string number = std::to_string(file.get());
  return own_descriptors.valid()
             ? Fd(::openat(own_descriptors.get(), number.c_str(), flags | O_CLOEXEC))
             : Fd(::open((std::string(kOwn) + "/" + number).c_str(), flags | O_CLOEXEC));
}

DescriptorsInReach::DescriptorsInReach() {
  own_descriptors = Fd(::open(kOwn, O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!own_descriptors.valid()) throw_errno("cannot open {}", kOwn);
}

DescriptorsInReach::~DescriptorsInReach() {
  own_descriptors.reset();
}

}  // namespace snapgdb
