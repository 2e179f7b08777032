#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace snapgdb {

struct Symbol {
  uint64_t start = 0;
  uint64_t end = 0;       // of the section where the symbol says no size
  std::string_view name;  // mangled; without a version ("@@GLIBC_2.34")
};

// The code symbols of an ELF file, .symtab and .dynsym together.
class SymbolTable {
 public:
  // Adds those of one file, which must outlive this; one that is damaged adds what is whole.
  // Several files are the program and its debug file: the addresses of both mean the same.
  void add(std::string_view elf);
  // To be called once everything was added.
  void sort();

  // The symbol whose code holds `address`: of several, the one that starts last, and of the names
  // that it has the plainest ("write" rather than "__libc_write"). nullptr: none.
  const Symbol* find(uint64_t address) const;

 private:
  std::vector<Symbol> symbols_;
};

}  // namespace snapgdb
