#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "core/base/strings.h"
#include "core/image/snapshot.pb.h"
#include "core/linux/system_v.h"
#include "core/resource/memory.h"

namespace snapgdb {

// What the records of System V objects, and mappings of segments, say; for the capture, the plan
// and the making of them.

inline bool is_segment(const pb::Vma& vma) {
  return vma.shared() && vma.deleted() && vma.name().starts_with(kSystemVName);
}
// The key by which it was attached.
inline std::optional<uint32_t> key_in(const pb::Vma& vma) {
  return parse_number<uint32_t>(std::string_view(vma.name()).substr(kSystemVName.size()), 16);
}

IpcObject object_of(const pb::SharedMemorySegment& segment);
IpcObject object_of(const pb::SemaphoreSet& set);
IpcObject object_of(const pb::SystemVMessageQueue& queue);
std::vector<uint16_t> values_of(const pb::SemaphoreSet& set);
std::vector<IpcMessage> messages_of(const pb::SystemVMessageQueue& queue);

}  // namespace snapgdb
