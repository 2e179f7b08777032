#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace snapgdb {

// Where an address is in the program's text. Empty and 0: not known.
struct SourceFrame {
  std::string function;  // demangled
  // The name is put together from the source's own names, for want of one for the linker: "ns::f"
  // rather than "ns::f(int)".
  bool without_parameters = false;
  std::string file;  // absolute, where the compiler said so
  uint32_t line = 0;
  uint32_t column = 0;
};

// A name as the linker has it, made readable (C++, Rust, D); others are returned as they are.
std::string demangled(std::string_view linkage_name);

// The DWARF of one ELF file, read by LLVM. Only the file itself is read: skeletons of split DWARF
// stay skeletons, since their .dwo files would be looked for on the disk of this machine. Sections
// are decompressed once, at construction. Not thread-safe.
class DebugInfo {
 public:
  // `elf` must outlive this. A file without DWARF, or with damaged DWARF, knows nothing.
  explicit DebugInfo(std::string_view elf);
  ~DebugInfo();

  // The functions that the instruction at this address (of the file) belongs to, innermost first:
  // all but the last were inlined.
  std::vector<SourceFrame> frames_at(uint64_t address);

 private:
  class Context;
  std::unique_ptr<Context> context_;  // nullptr: the DWARF is damaged
};

}  // namespace snapgdb
