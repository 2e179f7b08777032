#include "gdbstub/thread_local.h"

#include <elf.h>
#include <sys/user.h>

#include <algorithm>
#include <string_view>

#include "gdbstub/link_map.h"
#include "gdbstub/scanner.h"

// As the x86-64 TLS ABI and glibc's nptl_db have it. glibc describes the members of its private
// structures in symbols of its own, made for debuggers: "_thread_db_STRUCTURE_MEMBER" is an array
// of three numbers: size in bits, number of elements, offset in bytes.
namespace snapgdb::gdbstub {
namespace {

constexpr size_t kMaxDynamic = 4096, kMaxChain = 65536, kMaxSymbolName = 128;

// Of one loaded object, by its dynamic section in memory.
struct DynamicSymbols {
  uint64_t hash = 0;     // DT_GNU_HASH
  uint64_t symbols = 0;  // DT_SYMTAB
  uint64_t strings = 0;  // DT_STRTAB
};

DynamicSymbols dynamic_symbols(const ProcessMemory& memory, const LoadedObject& object) {
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

std::optional<uint64_t> find_symbol(const ProcessMemory& memory, const LoadedObject& object,
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

struct MemberDescription {
  uint32_t bits, elements, offset;
};

// Offset of a member of glibc's struct link_map.
uint64_t link_map_member(const ProcessMemory& memory, std::span<const LoadedObject> objects,
                         std::string_view member) {
  const std::string symbol = "_thread_db_link_map_" + std::string(member);
  for (const LoadedObject& object : objects) {
    const auto address = find_symbol(memory, object, symbol);
    const auto description = address ? memory.read<MemberDescription>(*address) : std::nullopt;
    if (description) return description->offset;
  }
  throw PacketError{kNotThere, "the C library does not tell where thread-local variables are"};
}

// The thread pointer: fs_base.
uint64_t thread_pointer(const Target& target, ThreadId thread) {
  const std::string general = target.registers(thread).general;
  user_regs_struct registers;
  if (general.size() != sizeof registers)
    throw PacketError{kNotThere, "the thread has no registers"};
  std::memcpy(&registers, general.data(), sizeof registers);
  return registers.fs_base;
}

// The executable's block ends at the thread pointer but for what its alignment needs: its code has
// the distance built in (x86-64 TLS ABI, local exec).
uint64_t executable_distance(const Target& target, Pid pid) {
  const auto tls = executable_segment(target, pid, PT_TLS);
  if (!tls) throw PacketError{kNotThere, "the executable has no thread-local variables"};
  const uint64_t alignment = std::max<uint64_t>(tls->p_align, 1);
  return tls->p_memsz + ((0 - tls->p_vaddr - tls->p_memsz) & (alignment - 1));
}

// An object loaded later has its blocks allocated when a thread first uses them; the thread's dtv,
// whose address follows the thread pointer's own, knows the block of module N in its Nth entry.
uint64_t dynamic_block(const ProcessMemory& memory, uint64_t pointer, uint64_t module) {
  struct Slot {
    uint64_t value, to_free;
  };
  constexpr uint64_t kUnallocated = UINT64_MAX;
  const auto dtv = memory.read<uint64_t>(pointer + 8);
  const auto length = dtv ? memory.read<uint64_t>(*dtv - sizeof(Slot)) : std::nullopt;
  const auto slot = length && module != 0 && module <= *length
                        ? memory.read<Slot>(*dtv + module * sizeof(Slot))
                        : std::nullopt;
  if (!slot || slot->value == kUnallocated || slot->value == 0)
    throw PacketError{kNotThere, "the thread has not used that library's variables yet"};
  return slot->value;
}

}  // namespace

uint64_t thread_local_address(const Target& target, ThreadId thread, uint64_t link_map,
                              uint64_t offset) {
  const ProcessMemory memory = memory_of(target, thread.pid);
  const std::vector<LoadedObject> objects = read_link_map(target, thread.pid);
  const uint64_t pointer = thread_pointer(target, thread);
  if (link_map == 0 || (!objects.empty() && link_map == objects.front().link_map))
    return pointer - executable_distance(target, thread.pid) + offset;
  // So do the blocks of what else was there at the start.
  constexpr uint64_t kNone = 0, kForcedDynamic = UINT64_MAX;
  const auto distance =
      memory.read<uint64_t>(link_map + link_map_member(memory, objects, "l_tls_offset"));
  if (distance && *distance != kNone && *distance != kForcedDynamic)
    return pointer - *distance + offset;
  const auto module =
      memory.read<uint64_t>(link_map + link_map_member(memory, objects, "l_tls_modid"));
  return dynamic_block(memory, pointer, module.value_or(0)) + offset;
}

}  // namespace snapgdb::gdbstub
