#pragma once

namespace snapgdb {

// Whether the processor stops tasks at the addresses in their debug registers. Some virtual
// machines (PVM is one) take all of them and stop nobody. Tried once, with a child.
bool debug_registers_stop();

}  // namespace snapgdb
