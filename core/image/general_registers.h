#pragma once

#include <sys/user.h>

#include <algorithm>
#include <cstring>

#include "core/image/snapshot.pb.h"

namespace snapgdb {

// Zeros where the image does not have them.
inline user_regs_struct general_registers(const pb::Thread& thread) {
  user_regs_struct registers{};
  std::memcpy(&registers, thread.registers().data(),
              std::min(sizeof registers, thread.registers().size()));
  return registers;
}

}  // namespace snapgdb
