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
  // process_vm_readv(2) is twice as fast as /proc/PID/mem. But it pins the pages, and so gives the
  // task copies of its own of what it has in common with a parent or a child since fork(2)
  // (gup_must_unshare(), Linux 5.19): to be left as it is, that has to be read gently, through mem.
  enum class Way { kFast, kGently };

  RemoteMemory(Tid tid, const ProcDirectory& proc);
  // Reads from `address` on; returns how many bytes could be read before the first that cannot.
  // The fast way honours the mapping's protection; what it refuses is read the other way.
  size_t read(uint64_t address, std::span<std::byte> out, Way way = Way::kFast) const;
  // Reads ranges to where they stand in `out` one after the other, many at a time: a call for each
  // would take as long as the reading of two pages. Returns how many bytes could be read before the
  // first that process_vm_readv(2) refuses.
  struct Range {
    uint64_t start = 0, size = 0;
  };
  size_t read_all(std::span<const Range> ranges, std::span<std::byte> out) const;
  Tid tid() const { return tid_; }

 private:
  size_t read_mem(uint64_t address, std::span<std::byte> out) const;

  Tid tid_;
  Fd mem_;
};

// How a private mapping is read so that it stays in common with parents and children.
// `shared_clean`, `shared_dirty`: bytes of it, as smaps has them.
RemoteMemory::Way way_to_read(bool of_file, uint64_t shared_clean, uint64_t shared_dirty);

}  // namespace snapgdb
