#pragma once

#include <cstdint>

#include "gdbstub/target.h"

namespace snapgdb::gdbstub {

// The address of a thread's copy of a thread-local variable: `offset` within the block of the
// object whose struct link_map is at `link_map`; 0 is the executable, which needs no dynamic
// linker. Throws PacketError where there is none (yet), or where the C library does not tell how to
// find it.
uint64_t thread_local_address(const Target& target, ThreadId thread, uint64_t link_map,
                              uint64_t offset);

// fs_base: in glibc, also pthread_t (System V ABI, x86-64 TLS). Throws PacketError, or Error if the
// thread runs.
uint64_t thread_pointer(const Target& target, ThreadId thread);

}  // namespace snapgdb::gdbstub
