#pragma once

#include <llvm/Object/ELF.h>

#include <optional>

namespace snapgdb {

// Of LLVM's ELF readers, the one that returns an error for whatever is out of bounds; ObjectFile's
// iterators over symbols end the program instead.
using LlvmElf = llvm::object::ELFFile<llvm::object::ELF64LE>;

// The value, or nullopt where LLVM found something wrong: a damaged file is read as far as it is
// whole.
template <typename T>
std::optional<T> value_of(llvm::Expected<T> expected) {
  if (expected) return std::move(*expected);
  llvm::consumeError(expected.takeError());
  return std::nullopt;
}

}  // namespace snapgdb
