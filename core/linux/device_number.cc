#include "core/linux/device_number.h"

#include <sys/sysmacros.h>

namespace snapgdb {

dev_t make_device(unsigned major, unsigned minor) {
  return makedev(major, minor);
}

unsigned major_of(dev_t device) {
  return gnu_dev_major(device);
}

unsigned minor_of(dev_t device) {
  return gnu_dev_minor(device);
}

dev_t device_of(uint64_t number) {
  return makedev(number >> 20, number & 0xfffff);
}

}  // namespace snapgdb
