#pragma once

#include <cstdint>
#include <optional>

#include "core/image/snapshot.pb.h"
#include "core/resource/hosts.h"

namespace snapgdb {

// Whether what a program maps is locked, as mlockall(2) had it, shows in nothing but what it maps.
// So its program break goes a page further for a moment, and back, which it does also without us.
// Returns the flags in force, MCL_FUTURE and MCL_ONFAULT; nullopt: it cannot be told so.
// Precondition: the image has what brk(2) said just now, of which these are the lower bits.
std::optional<uint32_t> what_is_locked_later(const Host& host, const pb::Process& process);

}  // namespace snapgdb
