#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/image/snapshot.h"

namespace snapgdb::gdbstub {

// The tables of gdb's `info os`, of the snapshot's processes: "" lists them. nullopt: no such one.
std::optional<std::string> system_data(const Snapshot& snapshot, std::string_view table);

}  // namespace snapgdb::gdbstub
