#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "core/base/error.h"

namespace snapgdb {

// Who shall do something in our place, of which the kernel keeps who did it, and where it was. Such
// records outlive the process: its number and user are told from them as long as they are there.
struct StandIn {
  int32_t pid = 0;  // in our pid namespace; 0: any
  std::optional<uint32_t> user, group;
  int root = -1, directory = -1;  // descriptors of directories; -1: ours
};

// It cannot be had: the number is taken, the user is not ours to be.
class NoStandIn : public SystemError {
 public:
  using SystemError::SystemError;
};

// In a transient process that shares our memory and descriptors, while we wait; or, by our own
// number, in a thread of ours that shares neither directories nor users. It keeps our capabilities,
// whoever it is. Throws NoStandIn, and what `work` throws. Precondition: we have one thread.
void perform_by(const StandIn& who, const std::function<void()>& work);

}  // namespace snapgdb
