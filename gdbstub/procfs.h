#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/image/snapshot.h"

namespace snapgdb::gdbstub {

// Files of /proc/PID and /proc/PID/task/TID as they would have read at the moment of the snapshot,
// made from its records: what `info proc` and `generate-core-file` ask for. `path` is absolute.
// nullopt: the snapshot has no such process, thread or file.
std::optional<std::string> proc_file(const Snapshot& snapshot, std::string_view path);
std::optional<std::string> proc_link(const Snapshot& snapshot, std::string_view path);

// The same for "/proc/self/…", seen by that process.
std::string resolve_self(std::string_view path, int32_t seen_by);

}  // namespace snapgdb::gdbstub
