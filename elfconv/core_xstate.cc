#include "elfconv/core_xstate.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace snapgdb {
namespace {

// Intel SDM volume 1, 13.4; asm/user.h of the kernel for the mask.
constexpr size_t kMaskOffset = 464;      // what the system supports: XCR0
constexpr size_t kXstateBvOffset = 512;  // components not in their initial state
constexpr size_t kHeaderEnd = 576;
constexpr uint32_t kPkru = 9;  // the last component that debuggers know

uint64_t number_at(std::string_view area, size_t offset) {
  uint64_t number;
  std::memcpy(&number, area.data() + offset, sizeof number);
  return number;
}

}  // namespace

std::string core_xstate(const pb::Host& host, std::string_view area) {
  std::string kept(area);
  if (area.size() < kHeaderEnd || number_at(area, kXstateBvOffset) >> (kPkru + 1)) return kept;

  const uint64_t mask = number_at(area, kMaskOffset);
  uint64_t known_end = kHeaderEnd, kept_mask = mask & 3;  // x87 and SSE have no entry
  for (const pb::XstateComponent& component : host.xstate()) {
    const bool present = component.number() <= kPkru && (mask >> component.number() & 1);
    if (!present) continue;
    kept_mask |= uint64_t{1} << component.number();
    known_end = std::max(known_end, uint64_t{component.offset()} + component.size());
  }
  const uint64_t known = mask & ((uint64_t{1} << (kPkru + 1)) - 1);
  if (kept_mask != known || known_end >= area.size()) return kept;  // nothing behind, or unknown
  kept.resize(known_end);
  std::memcpy(kept.data() + kMaskOffset, &kept_mask, sizeof kept_mask);
  return kept;
}

}  // namespace snapgdb
