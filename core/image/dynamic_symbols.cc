#include "core/image/dynamic_symbols.h"

#include <elf.h>

namespace snapgdb {
namespace {

constexpr size_t kMaxDynamic = 4096, kMaxChain = 65536, kMaxSymbolName = 128;

struct DynamicSymbols {
  uint64_t hash = 0;     // DT_GNU_HASH
  uint64_t symbols = 0;  // DT_SYMTAB
  uint64_t strings = 0;  // DT_STRTAB
};

DynamicSymbols dynamic_symbols(const ProcessMemory& memory, const ObjectPlace& object) {
  DynamicSymbols found;
  for (size_t i = 0; i < kMaxDynamic; ++i) {
    const auto entry = memory.read<Elf64_Dyn>(object.dynamic + i * sizeof(Elf64_Dyn));
    if (!entry || entry->d_tag == DT_NULL) break;
    // The dynamic linker has relocated these, unless it could not write to them.
    const uint64_t value = entry->d_un.d_ptr < object.load_offset
                               ? entry->d_un.d_ptr + object.load_offset
                               : entry->d_un.d_ptr;
    if (entry->d_tag == DT_GNU_HASH) found.hash = value;
    if (entry->d_tag == DT_SYMTAB) found.symbols = value;
    if (entry->d_tag == DT_STRTAB) found.strings = value;
  }
  return found;
}

uint32_t gnu_hash(std::string_view name) {
  uint32_t hash = 5381;
  for (const char c : name) hash = hash * 33 + static_cast<uint8_t>(c);
  return hash;
}

struct GnuHashHeader {
  uint32_t buckets, first_symbol, bloom_words, bloom_shift;
};

}  // namespace

std::optional<uint64_t> find_dynamic_symbol(const ProcessMemory& memory, const ObjectPlace& object,
                                            std::string_view name) {
  const DynamicSymbols in = dynamic_symbols(memory, object);
  const auto header = memory.read<GnuHashHeader>(in.hash);
  if (!header || header->buckets == 0) return std::nullopt;
  const uint32_t hash = gnu_hash(name);
  const uint64_t buckets = in.hash + sizeof(GnuHashHeader) + uint64_t{header->bloom_words} * 8;
  const uint64_t chains = buckets + uint64_t{header->buckets} * 4;
  const auto first = memory.read<uint32_t>(buckets + uint64_t{hash % header->buckets} * 4);
  if (!first || *first < header->first_symbol) return std::nullopt;
  for (uint64_t index = *first; index - *first < kMaxChain; ++index) {
    const auto link = memory.read<uint32_t>(chains + (index - header->first_symbol) * 4);
    const auto symbol = memory.read<Elf64_Sym>(in.symbols + index * sizeof(Elf64_Sym));
    if (!link || !symbol) return std::nullopt;
    if ((*link | 1) == (hash | 1) &&
        memory.text(in.strings + symbol->st_name, kMaxSymbolName) == name)
      return object.load_offset + symbol->st_value;
    if (*link & 1) return std::nullopt;  // the end of the chain
  }
  return std::nullopt;
}

}  // namespace snapgdb
