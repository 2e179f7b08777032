#pragma once

#include <string>
#include <string_view>

#include "core/image/snapshot.h"

namespace snapgdb {

// The content of NT_X86_XSTATE: the area as the kernel gave it, without the components at its end
// that no debugger shows (AMX tiles). gdb tells the layout of an area by its size, and knows no
// size with AMX: 13 warns of it, for later versions see gdb/i387-tdep.c, i387_guess_xsave_layout.
std::string core_xstate(const pb::Host& host, std::string_view area);

}  // namespace snapgdb
