#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/linux/detour.h"

namespace snapgdb {

// Why the task of this /proc/PID/status may not be sent on a Detour, or only with a look at its
// filters; nullopt: that is not in the way.
std::optional<std::string> has_shadow_stack(const ProcFields& status);
std::optional<std::string> is_under_seccomp(const ProcFields& status);
// Either.
std::optional<std::string> guards_its_system_calls(const ProcFields& status);

// A task of a running process, stopped, that can be sent on a Detour now. It runs on when the
// Tracee goes.
struct HostTask {
  Tracee task;
  Detour::Place place;
};
// Throws Error, saying why none is fit.
HostTask stop_a_host(const ProcDirectory& proc, const std::vector<ProcMapping>& mappings,
                     GadgetFinder& finder, size_t scratch);

}  // namespace snapgdb
