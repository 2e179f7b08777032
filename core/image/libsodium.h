#pragma once

#include <sodium/core.h>

#include <cstddef>
#include <ranges>
#include <type_traits>

#include "core/base/error.h"

namespace snapgdb {

// Before the first use of libsodium: it chooses what is fastest on this processor.
inline void start_libsodium() {
  static const int done = ::sodium_init();
  if (done < 0) throw Error("cannot encrypt or sign", "libsodium does not start");
}

// The bytes of a container as libsodium wants them: constant if they are.
template <typename Container>
auto* raw(Container&& bytes) {
  using Byte = std::remove_pointer_t<decltype(std::ranges::data(bytes))>;
  static_assert(sizeof(Byte) == 1);
  using Raw = std::conditional_t<std::is_const_v<Byte>, const unsigned char, unsigned char>;
  return reinterpret_cast<Raw*>(std::ranges::data(bytes));
}

}  // namespace snapgdb
