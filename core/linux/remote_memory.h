#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "core/base/fd.h"
#include "core/base/ids.h"
#include "core/linux/procfs.h"

namespace snapgdb {

// Memory of one address space as it was at the moment of the snapshot. Capture reads through this
// and does not know how the moment was secured: by keeping the task stopped (RemoteMemory), or by a
// copy-on-write twin or write-protection, which let it run meanwhile.
class MemorySource {
 public:
  virtual ~MemorySource() = default;
  // Reads from `address` on; returns how many bytes could be read before the first that cannot.
  virtual size_t read(uint64_t address, std::span<std::byte> out) const = 0;
  // Whether the tasks must stay stopped until the last read.
  virtual bool needs_stop() const = 0;
};

// The memory of a task, read from it directly.
class RemoteMemory : public MemorySource {
 public:
  RemoteMemory(Tid tid, const ProcDirectory& proc);
  // process_vm_readv(2) is twice as fast as /proc/PID/mem but honours the mapping's protection;
  // what it refuses is read through mem.
  size_t read(uint64_t address, std::span<std::byte> out) const override;
  bool needs_stop() const override { return true; }

 private:
  Tid tid_;
  Fd mem_;
};

}  // namespace snapgdb
