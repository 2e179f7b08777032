#pragma once

#include <map>
#include <string>
#include <vector>

namespace snapgdb {

// Limits of an ipc namespace (sysvipc(7), mq_overview(7)): files below /proc/sys, with their
// values.
using IpcSettings = std::map<std::string, std::string>;

// Of the caller's.
IpcSettings ipc_settings();
// Has the caller's be these; names that are none of such files are passed over. Returns what is
// otherwise.
std::vector<std::string> set_ipc_settings(const IpcSettings& wanted);

}  // namespace snapgdb
