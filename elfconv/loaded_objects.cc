#include "elfconv/loaded_objects.h"

#include <elf.h>
#include <link.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>

#include "core/base/error.h"

namespace snapgdb {
namespace {

// The lists may lead anywhere. A program that loads more than this is not known.
constexpr uint64_t kMaxHeaders = 256, kMaxDynamic = 4096, kMaxObjects = 16384;
constexpr size_t kMaxName = 4096;

class Memory {
 public:
  Memory(const Snapshot& snapshot, const pb::Process& process)
      : snapshot_(snapshot), process_(process) {}

  template <typename Struct>
  std::optional<Struct> read(uint64_t address) const {
    Struct value;
    return read_some(address, std::as_writable_bytes(std::span(&value, 1))) == sizeof value
               ? std::optional(value)
               : std::nullopt;
  }

  std::string text(uint64_t address) const {
    std::string bytes(kMaxName, '\0');
    bytes.resize(read_some(address, std::as_writable_bytes(std::span(bytes))));
    return bytes.substr(0, bytes.find('\0'));
  }

  uint32_t file_at(uint64_t address) const {
    const pb::Vma* vma = snapshot_.mapping(process_, address);
    return vma ? vma->file() : 0;
  }

 private:
  size_t read_some(uint64_t address, std::span<std::byte> out) const {
    try {
      return snapshot_.read_memory(process_, address, out);
    } catch (const Error&) {  // a damaged page is as good as a missing one
      return 0;
    }
  }

  const Snapshot& snapshot_;
  const pb::Process& process_;
};

// The auxiliary vector's value for `type`, 0 if it has none.
uint64_t auxiliary(const pb::Process& process, uint64_t type) {
  const std::string& auxv = process.auxv();
  Elf64_auxv_t entry;
  for (size_t at = 0; at + sizeof entry <= auxv.size(); at += sizeof entry) {
    std::memcpy(&entry, auxv.data() + at, sizeof entry);
    if (entry.a_type == type) return entry.a_un.a_val;
  }
  return 0;
}

// Where the executable's dynamic section lies, 0 if it has none. A position-independent executable
// is found through PT_PHDR, which says where the headers would be without a load offset.
uint64_t dynamic_section(const Memory& memory, const pb::Process& process) {
  const uint64_t headers = auxiliary(process, AT_PHDR);
  const uint64_t count = std::min(auxiliary(process, AT_PHNUM), kMaxHeaders);
  uint64_t bias = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const auto header = memory.read<Elf64_Phdr>(headers + i * sizeof(Elf64_Phdr));
    if (!header) return 0;
    if (header->p_type == PT_PHDR) bias = headers - header->p_vaddr;
    if (header->p_type == PT_DYNAMIC) return bias + header->p_vaddr;
  }
  return 0;
}

// Where the dynamic linker put its struct r_debug.
uint64_t debug_address(const Memory& memory, uint64_t dynamic) {
  for (uint64_t i = 0; dynamic && i < kMaxDynamic; ++i) {
    const auto entry = memory.read<Elf64_Dyn>(dynamic + i * sizeof(Elf64_Dyn));
    if (!entry || entry->d_tag == DT_NULL) return 0;
    if (entry->d_tag == DT_DEBUG) return entry->d_un.d_ptr;
  }
  return 0;
}

uint64_t number(const void* pointer_of_process) {
  return reinterpret_cast<uint64_t>(pointer_of_process);
}

}  // namespace

std::vector<LoadedObject> loaded_objects(const Snapshot& snapshot, const pb::Process& process) {
  const Memory memory(snapshot, process);
  std::vector<LoadedObject> objects;
  std::set<uint64_t> seen;
  uint64_t debug = debug_address(memory, dynamic_section(memory, process));
  while (debug && seen.insert(debug).second) {  // one for each namespace of dlmopen(3)
    const auto names = memory.read<r_debug>(debug);
    if (!names) break;
    for (uint64_t at = number(names->r_map);
         at && seen.size() < kMaxObjects && seen.insert(at).second;) {
      const auto entry = memory.read<link_map>(at);
      if (!entry) break;
      objects.push_back({memory.text(number(entry->l_name)), memory.file_at(number(entry->l_ld))});
      at = number(entry->l_next);
    }
    if (names->r_version < 2) break;  // r_debug_extended, glibc 2.35
    debug = memory.read<uint64_t>(debug + sizeof(r_debug)).value_or(0);
  }
  return objects;
}

}  // namespace snapgdb
