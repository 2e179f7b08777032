#pragma once

#include <cstddef>
#include <ranges>
#include <type_traits>

namespace snapgdb {

// The bytes of a container as libsodium wants them: constant if they are.
template <typename Container>
auto* raw(Container&& bytes) {
  using Byte = std::remove_pointer_t<decltype(std::ranges::data(bytes))>;
  static_assert(sizeof(Byte) == 1);
  using Raw = std::conditional_t<std::is_const_v<Byte>, const unsigned char, unsigned char>;
  return reinterpret_cast<Raw*>(std::ranges::data(bytes));
}

}  // namespace snapgdb
