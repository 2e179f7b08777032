#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/base/fd.h"
#include "core/base/ids.h"
#include "core/linux/procfs.h"

namespace snapgdb {

// process_vm_readv(2): how many bytes could be read before the first that cannot.
size_t read_remote(Tid tid, uint64_t address, std::span<std::byte> out);

// process_vm_writev(2). Throws SystemError unless all of it could be written.
void write_remote(Tid tid, uint64_t address, std::span<const std::byte> bytes);

// The memory of a task, read from it directly.
class RemoteMemory {
 public:
  RemoteMemory(Tid tid, const ProcDirectory& proc);
  // Reads from `address` on; returns how many bytes could be read before the first that cannot.
  // process_vm_readv(2) is twice as fast as /proc/PID/mem but honours the mapping's protection;
  // what it refuses is read through mem.
  size_t read(uint64_t address, std::span<std::byte> out) const;
  Tid tid() const { return tid_; }

 private:
  Tid tid_;
  Fd mem_;
};

}  // namespace snapgdb
