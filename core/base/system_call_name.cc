#include "core/base/system_call_name.h"

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

namespace snapgdb {
namespace {

struct Name {
  uint64_t number;
  const char* name;
};

// Made by CMake of <asm/unistd_64.h>, in the order of the numbers.
constexpr Name kNames[] = {
#include "core/base/system_call_names.inc"
};
static_assert(std::ranges::is_sorted(kNames, {}, &Name::number));

}  // namespace

std::string system_call_name(uint64_t number) {
  const auto found = std::ranges::lower_bound(kNames, number, {}, &Name::number);
  return found != std::end(kNames) && found->number == number
             ? found->name
             : fmt::format("system call {}", number);
}

}  // namespace snapgdb
