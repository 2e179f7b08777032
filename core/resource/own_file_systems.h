#pragma once

#include <vector>

#include "core/linux/procfs.h"

namespace snapgdb {

// A process may serve a file system (FUSE, fuse(4)) to others of its tree. Who asks for anything of
// it while the server is stopped waits for ever, and so would the tree. Throws Error, before
// anything is stopped, if the tree has something of such a file system open, mapped, or as a
// directory. (Whose file system it is the kernel does not tell: any will do, where the tree serves
// one.)
void refuse_own_file_systems(const std::vector<Pid>& processes);

}  // namespace snapgdb
