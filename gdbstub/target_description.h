#pragma once

#include <string>

#include "gdbstub/registers.h"

namespace snapgdb::gdbstub {

// The document that tells a debugger which registers there are and in which order the packets g and
// G carry them ("Target Descriptions" in gdb's manual).
std::string target_description(const RegisterLayout& layout);

}  // namespace snapgdb::gdbstub
