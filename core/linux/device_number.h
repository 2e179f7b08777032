#pragma once

#include <sys/types.h>

#include <cstdint>

namespace snapgdb {

// What makedev(3) and its like do, as functions: the macros major and minor of sys/sysmacros.h
// would rename the schema's fields of those names.
dev_t make_device(unsigned major, unsigned minor);
unsigned major_of(dev_t device);
unsigned minor_of(dev_t device);

// A device number as the kernel has it inside, and as some of what it tells shows it, in 32 bits:
// 12 and 20 (MKDEV, include/linux/kdev_t.h).
dev_t device_of(uint64_t number);

}  // namespace snapgdb
