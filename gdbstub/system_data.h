#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/image/snapshot.h"
#include "gdbstub/running_target.h"

namespace snapgdb::gdbstub {

// Objects of System V as the image has them: who used them is not known.
IpcObjects ipc_objects_of(const pb::SnapshotRecord& record);

// The tables of gdb's `info os`, of these processes and objects of System V; "" lists them.
// nullopt: no such one. `ipc` is called where the table is about them.
std::optional<std::string> system_data(std::span<const pb::Process> processes,
                                       const std::function<IpcObjects()>& ipc,
                                       std::string_view table);

}  // namespace snapgdb::gdbstub
