#pragma once

#include "core/image/snapshot.pb.h"

namespace snapgdb {

// Whether it is the ring of a context of asynchronous I/O, io_setup(2). The kernel maps it.
bool is_aio_ring(const pb::Vma& vma);

}  // namespace snapgdb
