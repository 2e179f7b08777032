#pragma once

#include <QString>

#include <cstdint>
#include <map>
#include <utility>

#include "core/image/snapshot.h"

namespace snapgdb::gui {

// What the capture could not get of each process (tid 0) and thread, a line each: "Missing:
// environment: permission denied".
using Lacks = std::map<std::pair<int32_t, int32_t>, QString>;
Lacks lacks_of(const Snapshot& snapshot);

// "sleeping", or "sleeping, incomplete" of someone who lacks something.
QString state_with_lacks(const QString& state, const QString& lacks);

}  // namespace snapgdb::gui
