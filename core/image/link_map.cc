#include "core/image/link_map.h"

#include <link.h>

#include <algorithm>
#include <cstring>
#include <set>

namespace snapgdb {
namespace {

constexpr size_t kMaxObjects = 16384, kMaxHeaders = 256, kMaxDynamic = 4096, kMaxName = 4096;

struct ProgramHeaders {
  uint64_t address = 0;
  uint64_t count = 0;
};

ProgramHeaders program_headers(std::string_view auxv) {
  return {auxiliary_value(auxv, AT_PHDR), auxiliary_value(auxv, AT_PHNUM)};
}

std::optional<uint64_t> debug_slot(const ProcessMemory& memory, const Elf64_Phdr& dynamic) {
  for (size_t i = 0; i < kMaxDynamic; ++i) {
    const uint64_t at = dynamic.p_vaddr + i * sizeof(Elf64_Dyn);
    const auto entry = memory.read<Elf64_Dyn>(at);
    if (!entry || entry->d_tag == DT_NULL) break;
    if (entry->d_tag == DT_DEBUG) return at + offsetof(Elf64_Dyn, d_un);
  }
  return std::nullopt;
}

// Of an executable without PT_PHDR, as the dynamic linker is one, that begins with its headers.
uint64_t offset_by_file_header(const ProcessMemory& memory, const ProgramHeaders& headers) {
  const uint64_t at = headers.address - sizeof(Elf64_Ehdr);
  const auto file = memory.read<Elf64_Ehdr>(at);
  const bool is_one = file && std::memcmp(file->e_ident, ELFMAG, SELFMAG) == 0 &&
                      file->e_type == ET_DYN && file->e_phoff == sizeof(Elf64_Ehdr);
  return is_one ? at : 0;
}

// <link.h>'s r_debug (r_debug_extended from version 2 on) and link_map, with numbers of the process
// instead of pointers of ours.
struct Debug {
  int32_t version;
  uint32_t padding;
  uint64_t map, brk, state, ldbase;
};
struct Entry {
  uint64_t addr, name, ld, next, prev;
};
static_assert(offsetof(r_debug, r_map) == offsetof(Debug, map) && sizeof(r_debug) == sizeof(Debug));
static_assert(offsetof(link_map, l_prev) == offsetof(Entry, prev));

// A walk along lists that may lead anywhere: no place is visited twice, and not too many are.
class Walk {
 public:
  bool visit(uint64_t address) {
    return address != 0 && seen_.size() < kMaxObjects && seen_.insert(address).second;
  }

 private:
  std::set<uint64_t> seen_;
};

void add_namespace(const ProcessMemory& memory, uint64_t debug_address, uint64_t first, Walk& walk,
                   std::vector<LoadedObject>& out) {
  for (uint64_t at = first; walk.visit(at);) {
    const auto entry = memory.read<Entry>(at);
    if (!entry) return;
    out.push_back({.link_map = at,
                   .name_space = debug_address,
                   .load_offset = entry->addr,
                   .dynamic = entry->ld,
                   .linker_name = memory.text(entry->name, kMaxName)});
    at = entry->next;
  }
}

// Of struct r_debug. `dynamic`: the executable's dynamic section.
uint64_t debug_address(const ProcessMemory& memory, std::string_view auxv,
                       const Elf64_Phdr& dynamic) {
  if (const auto slot = debug_slot(memory, dynamic))
    return memory.read<uint64_t>(*slot).value_or(0);
  const ObjectPlace linker{offset_by_file_header(memory, program_headers(auxv)), dynamic.p_vaddr};
  return find_dynamic_symbol(memory, linker, "_r_debug").value_or(0);
}

}  // namespace

uint64_t auxiliary_value(std::string_view auxv, uint64_t type) {
  for (Elf64_auxv_t entry; auxv.size() >= sizeof entry; auxv.remove_prefix(sizeof entry)) {
    std::memcpy(&entry, auxv.data(), sizeof entry);
    if (entry.a_type == type) return entry.a_un.a_val;
  }
  return 0;
}

std::optional<Elf64_Phdr> executable_segment(const ProcessMemory& memory, std::string_view auxv,
                                             uint32_t type) {
  const ProgramHeaders headers = program_headers(auxv);
  uint64_t load_offset = offset_by_file_header(memory, headers);
  for (uint64_t i = 0; i < std::min<uint64_t>(headers.count, kMaxHeaders); ++i) {
    auto header = memory.read<Elf64_Phdr>(headers.address + i * sizeof(Elf64_Phdr));
    if (!header) break;
    if (header->p_type == PT_PHDR) load_offset = headers.address - header->p_vaddr;
    header->p_vaddr += load_offset;
    if (header->p_type == type) return header;
  }
  return std::nullopt;
}

std::optional<uint64_t> debug_slot(const ProcessMemory& memory, std::string_view auxv) {
  const auto dynamic = executable_segment(memory, auxv, PT_DYNAMIC);
  return dynamic ? debug_slot(memory, *dynamic) : std::nullopt;
}

std::vector<LoadedObject> read_link_map(const ProcessMemory& memory, std::string_view auxv) {
  const auto dynamic = executable_segment(memory, auxv, PT_DYNAMIC);
  if (!dynamic) return {};
  std::vector<LoadedObject> out;
  Walk walk;
  uint64_t at = debug_address(memory, auxv, *dynamic);
  while (walk.visit(at)) {
    const auto debug = memory.read<Debug>(at);
    if (!debug) break;
    add_namespace(memory, at, debug->map, walk, out);
    at = debug->version >= 2 ? memory.read<uint64_t>(at + sizeof(Debug)).value_or(0) : 0;
  }
  const auto executable = std::ranges::find(out, dynamic->p_vaddr, &LoadedObject::dynamic);
  if (!out.empty()) (executable != out.end() ? *executable : out.front()).executable = true;
  return out;
}

}  // namespace snapgdb
