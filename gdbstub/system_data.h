#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/image/snapshot.h"

namespace snapgdb::gdbstub {

// The tables of gdb's `info os`, of these processes, and of the snapshot's objects of System V; ""
// lists them. nullopt: no such one.
std::optional<std::string> system_data(std::span<const pb::Process> processes,
                                       const pb::SnapshotRecord& record, std::string_view table);

}  // namespace snapgdb::gdbstub
