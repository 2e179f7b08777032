#pragma once

#include <span>
#include <string>
#include <string_view>

namespace snapgdb {

// Something that the kernel gives to whom it wants to: whether it gives it to us, here and now, is
// found out by trying, without a trace.
struct Ability {
  std::string_view what;     // "processes of other users"
  bool essential;            // for one's own processes
  std::string (*why_not)();  // "" if we have it
  std::string_view help;     // what gives it to us, or what happens without it
};

// In the order in which a person wants to know.
std::span<const Ability> abilities_to_capture();
std::span<const Ability> abilities_to_restore();

}  // namespace snapgdb
