#pragma once

#include <string>

#include "core/resource/restorer.h"

namespace snapgdb {

// What the processor of the snapshot had, the tree may use, and this one lacks: an obstacle, or a
// note if one goes without it. Register state in use that this one cannot hold is always an
// obstacle.
void check_processor(const Snapshot& snapshot, bool go_without, RestorePlan& plan);

// An XSAVE area (Intel SDM vol. 1, 13.4, standard format) of the machine `then`, laid out as on
// this one: components lie where each processor says (CPUID leaf 0xd).
std::string xstate_here(const pb::Host& then, const std::string& xstate);

// XSTATE_BV: the components that are not in their initial state.
uint64_t components_in_use(const std::string& xstate);

}  // namespace snapgdb
