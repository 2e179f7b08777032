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
constexpr uint64_t kLegacy = 3;     // x87 and SSE, which have no entry of their own
constexpr uint64_t kKnown = 0x3ff;  // what debuggers know: up to PKRU, component 9

uint64_t number_at(std::string_view area, size_t offset) {
  uint64_t number;
  std::memcpy(&number, area.data() + offset, sizeof number);
  return number;
}

void set_number(std::string& area, size_t offset, uint64_t number) {
  std::memcpy(area.data() + offset, &number, sizeof number);
}

}  // namespace

std::string core_xstate(const pb::Host& host, std::string_view area) {
  if (area.size() < kHeaderEnd) return std::string(area);
  const uint64_t mask = number_at(area, kMaskOffset), known = mask & kKnown;
  uint64_t found = mask & kLegacy, known_end = kHeaderEnd;
  for (const pb::XstateComponent& component : host.xstate()) {
    if (component.number() >= 64 || !(known >> component.number() & 1)) continue;
    found |= uint64_t{1} << component.number();
    known_end = std::max(known_end, uint64_t{component.offset()} + component.size());
  }
  if (found != known || known_end >= area.size()) return std::string(area);

  std::string kept(area.substr(0, known_end));
  set_number(kept, kMaskOffset, known);
  set_number(kept, kXstateBvOffset, number_at(area, kXstateBvOffset) & kKnown);
  return kept;
}

}  // namespace snapgdb
