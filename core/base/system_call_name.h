#pragma once

#include <cstdint>
#include <string>

namespace snapgdb {

// "read", of x86-64's numbers; "system call 9999" for one that the kernel's headers of the build
// did not know.
std::string system_call_name(uint64_t number);

}  // namespace snapgdb
