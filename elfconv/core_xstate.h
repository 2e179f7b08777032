#pragma once

#include <string>
#include <string_view>

#include "core/image/snapshot.h"

namespace snapgdb {

// The content of NT_X86_XSTATE: the area as the kernel gave it, without the components that no
// debugger shows (AMX tiles), and laid out as the processors of Intel do it. gdb tells the layout
// of an area by its size: later versions know that of AMD's processors, too, but none with AMX
// (gdb/i387-tdep.c, i387_guess_xsave_layout); 13 knows no other than Intel's.
std::string core_xstate(const pb::Host& host, std::string_view area);

}  // namespace snapgdb
