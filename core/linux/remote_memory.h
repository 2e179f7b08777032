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

// What the page table of a process says of a page.
enum class PageClass {
  kAbsent,     // no page: never touched, or dropped
  kAnonymous,  // private to the process, in memory or swapped out
  kFile,       // the page of a file or of shared memory
  kGuard,      // MADV_GUARD_INSTALL: touching it is a fault (Linux 6.13)
};

// /proc/PID/pagemap, by the PAGEMAP_SCAN ioctl where the kernel has it (6.7), otherwise by reading
// an entry for each page (Documentation/admin-guide/mm/pagemap.rst).
class Pagemap {
 public:
  explicit Pagemap(const ProcDirectory& proc);
  // Calls `found(start, end, class)` for adjoining runs that together cover [start, end).
  using Found = std::function<void(uint64_t, uint64_t, PageClass)>;
  void classify(uint64_t start, uint64_t end, const Found& found) const;

 private:
  bool scan(uint64_t start, uint64_t end, const Found& found) const;
  void read_entries(uint64_t start, uint64_t end, const Found& found) const;

  Fd fd_;
};

}  // namespace snapgdb
