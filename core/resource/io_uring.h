#pragma once

#include "core/image/snapshot.pb.h"

namespace snapgdb {

// Whether it is memory that a program has in common with the kernel, io_uring_setup(2).
bool is_io_uring(const pb::Vma& vma);

}  // namespace snapgdb
