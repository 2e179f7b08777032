#pragma once

#include "core/base/fd.h"
#include "core/linux/procfs.h"

namespace snapgdb {

// The very file or shared memory object behind a mapping, open for reading; not valid if it is out
// of our reach (deleted, and neither CAP_CHECKPOINT_RESTORE nor an open descriptor leads to it).
Fd open_mapped_file(const ProcDirectory& proc, const ProcMapping& mapping);

// In bytes; throws SystemError.
uint64_t file_size(const Fd& fd);

// Whether its content lives in memory only (tmpfs, memfd, SysV and anonymous shared memory).
bool is_memory_file(const Fd& fd);

// Calls `found(start, end, has_data)` for adjoining runs that cover [start, end) of the file, by
// SEEK_HOLE. Where the file system does not tell, everything is data.
template <typename Found>
void for_each_data_run(const Fd& fd, uint64_t start, uint64_t end, Found found);

uint64_t next_data(const Fd& fd, uint64_t offset, uint64_t end);
uint64_t next_hole(const Fd& fd, uint64_t offset, uint64_t end);

template <typename Found>
void for_each_data_run(const Fd& fd, uint64_t start, uint64_t end, Found found) {
  while (start < end) {
    const uint64_t data = next_data(fd, start, end);
    if (data > start) found(start, data, false);
    const uint64_t hole = next_hole(fd, data, end);
    if (hole > data) found(data, hole, true);
    start = hole;
  }
}

}  // namespace snapgdb
