#pragma once

#include <cstdint>

#include "core/image/snapshot.pb.h"

namespace snapgdb {

// What users and groups are called inside of a user namespace (user_namespaces(7)), whose numbers
// outside are those of a snapshot.
class UserNumbers {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;  // which system calls take for "as it is"

  UserNumbers() = default;  // the same as outside
  explicit UserNumbers(const pb::NamespaceState& space) : space_(&space) {}

  // kNone: it has none there.
  uint32_t user(uint32_t outside) const;
  uint32_t group(uint32_t outside) const;

 private:
  const pb::NamespaceState* space_ = nullptr;
};

}  // namespace snapgdb
