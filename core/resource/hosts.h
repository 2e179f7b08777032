#pragma once

#include <string>

#include "core/linux/detour.h"
#include "core/resource/resource.h"

namespace snapgdb {

// A task of the stopped tree that can be sent on a Detour.
struct Host {
  Tracee* task = nullptr;  // nullptr: there is none, and why_not says why
  Detour::Place place = {};
  std::string why_not = {};
};
// Of a task under seccomp: it can be asked what its filters let pass. Nothing that takes another
// task (a clone) is done there.
enum class UnderSeccomp { kRefused, kAsFiltersAllow };
// Any of the process's, rather one whose own system call comes to no harm if we are killed.
Host host_in(const FrozenProcess& frozen, CaptureContext& context, size_t scratch,
             UnderSeccomp seccomp = UnderSeccomp::kRefused);
// This very one, as its filters allow.
Host host_of(const StoppedTask& stopped, CaptureContext& context, size_t scratch);

}  // namespace snapgdb
