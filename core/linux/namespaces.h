#pragma once

#include "core/base/fd.h"

namespace snapgdb {

// A namespace of that kind (CLONE_NEW…). An ordinary user enters those of their own containers as
// root of the user namespace that these belong to. False: errno says why not. Only a process of a
// single thread may change its user namespace; it makes system calls and nothing else.
bool enter_namespace(const Fd& one, int kind);

}  // namespace snapgdb
