#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <string>
#include <utility>

namespace snapgdb {

// Writes to standard error, as it is; where nobody hears it, there is nobody to tell that either.
// (fmt::print() would throw then, in the midst of what is being done.)
template <typename... Args>
void say(fmt::format_string<Args...> format, Args&&... args) {
  const std::string text = fmt::format(format, std::forward<Args>(args)...);
  std::fwrite(text.data(), 1, text.size(), stderr);
}

}  // namespace snapgdb
