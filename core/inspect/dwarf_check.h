#pragma once

#include <llvm/DebugInfo/DWARF/DWARFContext.h>

namespace snapgdb {

// LLVM 14 reads well-formed DWARF, and damaged DWARF as far as it expects damage. What it takes on
// trust is checked here, before it is asked anything about the unit or the file. Beyond this, see
// DWARFFormValue::extractValue and DWARFDebugLine::Prologue::parse in its source.

// Whether every unit encodes its attributes and its line table's header in forms that LLVM knows.
// It jumps through a table without bounds by their numbers. Precondition of all other use.
bool has_known_forms(llvm::DWARFContext& context);

// Whether the entries of a unit can be walked: there is a first one, and few levels (LLVM
// recurses).
bool is_walkable(llvm::DWARFUnit& unit);

}  // namespace snapgdb
