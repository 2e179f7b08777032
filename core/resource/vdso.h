#pragma once

#include <span>
#include <vector>

#include "core/resource/restorer.h"

namespace snapgdb {

// Whether the kernel maps it by itself: vDSO, its data, vsyscall, rings of asynchronous I/O.
bool is_kernel_part(const pb::Vma& vma);

// Finds out whether this kernel's parts can stand where the snapshot's stood; if they are others
// than those, plans a place for them beside. Precondition: plan.seed_base.
void plan_kernel_parts(const Snapshot& snapshot, RestorePlan& plan);

// What maps them. They are parked in the seed. And the reverse, in a child that was born with its
// parent's.
void park_kernel_parts(const pb::Process& parent, const RestorePlan& plan, Seed& seed);
void add_kernel_parts(const pb::Process& process, const RestorePlan& plan, Seed& seed);
// After that was performed: the functions of the program's vDSO lead to this kernel's.
void redirect_vdso(const Snapshot& snapshot, const pb::Process& process, const RestorePlan& plan,
                   const Seed& seed);

// The vDSO `then` (an ELF shared object, vdso(7)) with each function leading to that of `now`,
// which is mapped at `now_at`; or to the plain system call, where `now` has none. Throws Error if
// `then` is no such object.
std::vector<std::byte> redirected(std::span<const std::byte> then, std::span<const std::byte> now,
                                  uint64_t now_at);

}  // namespace snapgdb
