#include "core/inspect/symbol_table.h"

#include <algorithm>
#include <optional>
#include <span>
#include <tuple>

#include "core/inspect/llvm_elf.h"

namespace snapgdb {
namespace {

namespace ELF = llvm::ELF;

// How far back find() looks for a function around the nearest symbol (a label within it, say).
constexpr size_t kMaxNesting = 16;

bool may_be_code(const LlvmElf::Elf_Sym& symbol) {
  const unsigned type = symbol.getType();
  return (type == ELF::STT_FUNC || type == ELF::STT_GNU_IFUNC || type == ELF::STT_NOTYPE) &&
         symbol.st_shndx != ELF::SHN_UNDEF && symbol.st_shndx < ELF::SHN_LORESERVE;
}

std::optional<Symbol> to_symbol(const LlvmElf::Elf_Sym& symbol, LlvmElf::Elf_Shdr_Range sections,
                                llvm::StringRef names) {
  if (!may_be_code(symbol) || symbol.st_shndx >= sections.size()) return std::nullopt;
  const auto& section = sections[symbol.st_shndx];
  const uint64_t start = symbol.st_value;
  const uint64_t size = symbol.st_size, left = section.sh_addr + section.sh_size - start;
  const auto name = value_of(symbol.getName(names));
  if (!(section.sh_flags & ELF::SHF_EXECINSTR) || !name || name->empty() ||
      start < section.sh_addr || start - section.sh_addr >= section.sh_size)
    return std::nullopt;
  const std::string_view text(name->data(), name->size());
  return Symbol{start, start + (size && size < left ? size : left), text.substr(0, text.find('@'))};
}

size_t leading_underscores(std::string_view name) {
  return std::min(name.find_first_not_of('_'), name.size());
}

bool precedes(const Symbol& a, const Symbol& b) {
  const auto rank = [](const Symbol& symbol) {
    return std::tuple(symbol.start, leading_underscores(symbol.name), symbol.name.size(),
                      symbol.name, symbol.end);
  };
  return rank(a) < rank(b);
}

}  // namespace

void SymbolTable::add(std::string_view bytes) {
  const auto elf = value_of(LlvmElf::create({bytes.data(), bytes.size()}));
  const auto sections = elf ? value_of(elf->sections()) : std::nullopt;
  if (!sections) return;
  for (const auto& section : *sections) {
    if (section.sh_type != ELF::SHT_SYMTAB && section.sh_type != ELF::SHT_DYNSYM) continue;
    const auto symbols = value_of(elf->symbols(&section));
    const auto names = value_of(elf->getStringTableForSymtab(section, *sections));
    if (!symbols || !names) continue;
    for (const auto& symbol : *symbols)
      if (const auto usable = to_symbol(symbol, *sections, *names)) symbols_.push_back(*usable);
  }
}

void SymbolTable::sort() {
  std::ranges::sort(symbols_, precedes);
  const auto same = std::ranges::unique(symbols_, {}, &Symbol::start);
  symbols_.erase(same.begin(), same.end());
}

const Symbol* SymbolTable::find(uint64_t address) const {
  const auto after = std::ranges::upper_bound(symbols_, address, {}, &Symbol::start);
  const size_t candidates = std::min<size_t>(kMaxNesting, after - symbols_.begin());
  const auto nearest =
      std::span(symbols_).subspan(after - symbols_.begin() - candidates, candidates);
  for (size_t i = nearest.size(); i-- > 0;)
    if (address < nearest[i].end) return &nearest[i];
  return nullptr;
}

}  // namespace snapgdb
