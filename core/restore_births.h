#pragma once

#include "core/image/snapshot.h"
#include "core/resource/restorer.h"

namespace snapgdb {

// How the processes of the tree come into being, each in its session and its group: in the order of
// birth, with what has to be there for a moment only. Sessions and groups whose leader is gone are
// begun by one that goes again.
void plan_births(const Snapshot& snapshot, RestorePlan& plan);

// Line by line, in words.
std::string describe(const Birth& birth);

}  // namespace snapgdb
