#include "core/inspect/symbolizer.h"

#include <string_view>
#include <unordered_map>

#include "core/inspect/symbol_table.h"

namespace snapgdb {
// What is known of one file. The debug file's DWARF is preferred: where there is one, the DWARF of
// the file itself was stripped.
class Symbolizer::Names {
 public:
  explicit Names(const Module& module) : dwarf_(dwarf_of(module)) {
    if (module.debug) symbols_.add(module.debug->bytes());
    symbols_.add(module.elf->bytes());
    symbols_.sort();
  }

  const Naming& at(uint64_t address) {
    const auto [known, is_new] = known_.try_emplace(address);
    if (is_new) known->second = look_up(address);
    return known->second;
  }

 private:
  static std::string_view dwarf_of(const Module& module) {
    const std::string_view separate = module.debug ? module.debug->bytes() : "";
    return separate.empty() ? module.elf->bytes() : separate;
  }

  Naming look_up(uint64_t address) {
    Naming naming{dwarf_.frames_at(address), std::nullopt};
    const Symbol* symbol = symbols_.find(address);
    if (!symbol) return naming;
    if (naming.frames.empty()) naming.frames.emplace_back();
    SourceFrame& function = naming.frames.back();
    const bool fuller = function.without_parameters && symbol->name.starts_with("_Z");
    if (function.function.empty() || fuller) function.function = demangled(symbol->name);
    naming.function_start = symbol->start;
    return naming;
  }

  DebugInfo dwarf_;
  SymbolTable symbols_;
  std::unordered_map<uint64_t, Naming> known_;
};

Symbolizer::Symbolizer() = default;
Symbolizer::~Symbolizer() = default;

const Naming& Symbolizer::at(const Module& module, uint64_t address) {
  auto& names = by_file_[module.elf];
  if (!names) names = std::make_unique<Names>(module);
  return names->at(module.in_file(address));
}

}  // namespace snapgdb
