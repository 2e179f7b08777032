#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/image/snapshot.h"

namespace snapgdb {

// "core.NAME.PID", with a name that is harmless in a file name whatever the process calls itself.
std::string core_file_name(const pb::Process& process);

struct CoreDestination {
  std::string directory;           // "" for the current one
  std::vector<std::string> paths;  // one a process, in their order
};

// Where the cores of `processes` go. `output`, if not "", is a directory (it is one, ends in '/',
// or is new and there are several processes), which is made if need be, or else the file for the
// one process. Throws Error with kUsage for several processes and one file.
CoreDestination core_destination(const std::string& output,
                                 std::span<const pb::Process* const> processes);

}  // namespace snapgdb
