#pragma once

#include <linux/filter.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "core/linux/signal_frame.h"
#include "core/linux/tracee.h"

namespace snapgdb {

// A filter of system calls, seccomp(2), in classic BPF.
struct SystemCallFilter {
  std::vector<sock_filter> program;
  uint32_t flags = 0;  // SECCOMP_FILTER_FLAG_LOG
};

// Those of a stopped task, the oldest first; nullopt: it is not in filter mode (it has none, or may
// do nothing at all: strict mode). Throws SystemError: EACCES without CAP_SYS_ADMIN, or where we
// are under a filter ourselves.
std::optional<std::vector<SystemCallFilter>> filters_of(const Tracee& task);

// Of the task and all that it makes, until they are let go or their options change. Throws Error.
void suspend_filters(Tracee& task);

// Whether all of them let a system call of 64-bit code pass without a trace. `instruction`: that
// behind the one that makes the call.
bool let_pass(const std::vector<SystemCallFilter>& filters, const SystemCall& call,
              uint64_t instruction);

// Whether it hands system calls to a supervisor (SECCOMP_RET_USER_NOTIF), as far as its text says.
bool asks_supervisor(const std::vector<sock_filter>& program);

// PR_SET_SYSCALL_USER_DISPATCH: system calls from outside of [offset, offset + size) become a
// SIGSYS where the byte at `selector` says so.
struct SystemCallDispatch {
  uint64_t mode = 0;  // 0: off
  uint64_t selector = 0, offset = 0, size = 0;
};
// Of a stopped task. nullopt: it is off, or the kernel does not tell (before Linux 6.4).
std::optional<SystemCallDispatch> dispatch_of(const Tracee& task);
void set_dispatch(Tracee& task, const SystemCallDispatch& dispatch);

}  // namespace snapgdb
