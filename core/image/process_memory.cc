#include "core/image/process_memory.h"

#include "core/base/error.h"

namespace snapgdb {

ProcessMemory::ProcessMemory(const Snapshot& snapshot, const pb::Process& process)
    : read_([&snapshot, &process](uint64_t address, std::span<std::byte> out) -> size_t {
        try {
          return snapshot.read_memory(process, address, out);
        } catch (const Error&) {
          return 0;
        }
      }) {}

}  // namespace snapgdb
