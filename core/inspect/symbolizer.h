#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/inspect/debug_info.h"
#include "core/inspect/module_map.h"

namespace snapgdb {

// What the files of the image know about an address of code.
struct Naming {
  // Innermost first; all but the last were inlined into the next. Empty: nothing is known.
  std::vector<SourceFrame> frames;
  // Where the last frame's function starts, as an address of the file.
  std::optional<uint64_t> function_start;
};

// Names addresses from the DWARF and the symbols of a module and of its separate debug file.
// What was found is kept per file, so threads and processes that run the same code share it.
// Not thread-safe: use one per thread.
class Symbolizer {
 public:
  Symbolizer();
  ~Symbolizer();

  // The result stays valid as long as the symbolizer; `address` is one of memory. For a return
  // address, pass one within the call before it.
  const Naming& at(const Module& module, uint64_t address);

 private:
  class Names;
  std::map<const ElfFile*, std::unique_ptr<Names>> by_file_;
};

}  // namespace snapgdb
