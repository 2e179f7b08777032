#include "gdbstub/thread_local.h"

#include <sys/user.h>

#include <algorithm>
#include <string_view>

#include "core/image/dynamic_symbols.h"
#include "gdbstub/link_map.h"
#include "gdbstub/scanner.h"

// As the x86-64 TLS ABI and glibc's nptl_db have it. glibc describes the members of its private
// structures in symbols of its own, made for debuggers: "_thread_db_STRUCTURE_MEMBER" is an array
// of three numbers: size in bits, number of elements, offset in bytes.
namespace snapgdb::gdbstub {
namespace {

struct MemberDescription {
  uint32_t bits, elements, offset;
};

// Offset of a member of glibc's struct link_map.
uint64_t link_map_member(const ProcessMemory& memory, std::span<const LoadedObject> objects,
                         std::string_view member) {
  const std::string symbol = "_thread_db_link_map_" + std::string(member);
  for (const LoadedObject& object : objects) {
    const auto address = find_dynamic_symbol(memory, object.place(), symbol);
    const auto description = address ? memory.read<MemberDescription>(*address) : std::nullopt;
    if (description) return description->offset;
  }
  throw PacketError{kNotThere, "the C library does not tell where thread-local variables are"};
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

uint64_t thread_pointer(const Target& target, ThreadId thread) {
  const std::string general = target.registers(thread).general;
  user_regs_struct registers;
  if (general.size() != sizeof registers)
    throw PacketError{kNotThere, "the thread has no registers"};
  std::memcpy(&registers, general.data(), sizeof registers);
  return registers.fs_base;
}

uint64_t thread_local_address(const Target& target, ThreadId thread, uint64_t link_map,
                              uint64_t offset) {
  const ProcessMemory memory = memory_of(target, thread.pid);
  const std::vector<LoadedObject> objects = read_link_map(target, thread.pid);
  const uint64_t pointer = thread_pointer(target, thread);
  const auto executable = std::ranges::find_if(objects, &LoadedObject::executable);
  if (link_map == 0 || (executable != objects.end() && link_map == executable->link_map))
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
