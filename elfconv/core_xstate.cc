#include "elfconv/core_xstate.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>

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

namespace {

// Where the processors of Intel have them in an area that is not compacted; by number.
struct Place {
  size_t offset = 0, size = 0;
};
constexpr Place kUsual[] = {{},         {},          {576, 256},   {960, 64}, {1024, 64},
                            {1088, 64}, {1152, 512}, {1664, 1024}, {},        {2688, 8}};

bool is_known(const pb::XstateComponent& component, uint64_t known) {
  return component.number() < std::size(kUsual) && known >> component.number() & 1;
}

// The components that are `known`, at their usual places; "" if one of them is not like that.
std::string laid_out_as_usual(const pb::Host& host, std::string_view area, uint64_t known) {
  std::string usual(area.substr(0, kHeaderEnd));
  uint64_t found = known & kLegacy;
  for (const pb::XstateComponent& component : host.xstate()) {
    if (!is_known(component, known)) continue;
    const Place& place = kUsual[component.number()];
    if (place.size != component.size() || component.offset() > area.size() ||
        area.size() - component.offset() < place.size)
      return "";
    found |= uint64_t{1} << component.number();
    usual.resize(std::max(usual.size(), place.offset + place.size));
    usual.replace(place.offset, place.size, area.substr(component.offset(), place.size));
  }
  return found == known ? usual : "";
}

}  // namespace

std::string core_xstate(const pb::Host& host, std::string_view area) {
  if (area.size() < kHeaderEnd) return std::string(area);
  const uint64_t mask = number_at(area, kMaskOffset), known = mask & kKnown;
  const bool is_usual =
      std::ranges::all_of(host.xstate(), [&](const pb::XstateComponent& component) {
        return !is_known(component, known) ||
               kUsual[component.number()].offset == component.offset();
      });
  if (is_usual && mask == known) return std::string(area);
  std::string usual = laid_out_as_usual(host, area, known);
  if (usual.empty()) return std::string(area);
  set_number(usual, kMaskOffset, known);
  set_number(usual, kXstateBvOffset, number_at(area, kXstateBvOffset) & kKnown);
  return usual;
}

}  // namespace snapgdb
