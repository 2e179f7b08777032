#pragma once

#include <memory>
#include <string>

#include "core/image/snapshot.h"
#include "gdbstub/session.h"

namespace snapgdb::gdbstub {

// Serves one client from a process in the background, over a unix socket that nobody else can open:
// gdb reads many times faster from a socket than through a pipe, where it makes a system call for
// every byte. Returns the socket's path.
//
// The process in the background ends with the client's connection; or, if no client comes, when the
// calling process ends, which may become the client by execve(2). It belongs to a session of its
// own, so that ^C does not reach it, and is no child of the caller.
// Precondition: the caller has only one thread.
std::string serve_in_background(std::shared_ptr<const Snapshot> snapshot,
                                const SessionOptions& options);

}  // namespace snapgdb::gdbstub
