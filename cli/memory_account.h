#pragma once

#include <string>
#include <vector>

#include <llvm/Support/JSON.h>

#include "core/image/snapshot.h"

namespace snapgdb::cli {

// How memory was secured against change while it was copied, and why not in a better way:
// "pre-copy", "stop-copy: it is under seccomp". Where that differs, one line for some processes
// each.
std::vector<std::string> secured_by(const Snapshot& snapshot);

// What programs keep to themselves, with its size: "4 KiB: hidden from everybody …".
std::vector<std::string> left_out(const Snapshot& snapshot);

// Both, of the address spaces of these processes.
llvm::json::Array address_spaces_json(const Snapshot& snapshot,
                                      const std::vector<const pb::Process*>& processes);

}  // namespace snapgdb::cli
