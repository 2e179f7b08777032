#pragma once

#include <span>
#include <string_view>

namespace snapgdb {

// What becomes of a kind of kernel state, in words: what docs/resources.md says. There is one for
// every row of resources.h, and for what has none of its own.
struct Coverage {
  enum class Of { kProcess, kThread, kDescriptor, kTree };
  Of of;
  std::string_view row;       // the row's name, or what it is about
  std::string_view captured;  // what is in the image
  std::string_view restored;  // what of it comes back; "": nothing
  std::string_view lacking;   // what does not, and what is said about it; "": nothing is known to
  std::string_view needs;     // rights and kernels beyond those of every capture; "": none
};
std::span<const Coverage> coverage();

}  // namespace snapgdb
