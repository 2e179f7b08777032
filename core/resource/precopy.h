#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/image/extents.h"
#include "core/image/page_writer.h"
#include "core/linux/remote_memory.h"
#include "core/linux/write_tracker.h"

namespace snapgdb {

// First copies of a process's memory, made while it runs. When it is stopped, only the pages that
// were written since have to be read again.
class PreCopy {
 public:
  // Precondition: `mappings` of `proc` are from smaps. Stops one task of the process for a fraction
  // of a millisecond. Throws Error if its writes cannot be tracked.
  PreCopy(Pid pid, const ProcDirectory& proc, const std::vector<ProcMapping>& mappings,
          GadgetFinder& finder);

  // Whether it writes faster than we could copy: then first copies would only be thrown away.
  // Takes 10 ms and a bit.
  bool is_too_busy() const;
  // Copies all but what is being written just now.
  void copy_all(PageWriter& pages);
  // Copies what was written since. False: there is no use in doing it again; what is left is
  // little, or does not become less.
  bool copy_again(PageWriter& pages);

  // What was copied (MISSING: not copied after all). It holds for the pages that the page table
  // calls unwritten (PageRun).
  const Extents& copied() const { return copied_; }
  // Whether this is a mapping, or a part of one, whose writes are tracked.
  bool tracks(uint64_t start, uint64_t end) const;

 private:
  void for_each_slice(
      const std::function<void(uint64_t from, uint64_t to, RemoteMemory::Way way)>& visit) const;

  Tid tid_;
  ProcDirectory proc_;
  std::optional<WriteTracker> tracker_;
  std::vector<RemoteMemory::Way> ways_;  // of each range of the tracker
  uint64_t to_copy_ = 0;                 // bytes, as smaps had it
  Extents copied_;
};

// Bytes of private memory above which it is worth while: less is read in the time that setting up
// the tracking takes.
inline constexpr uint64_t kWorthPreCopying = uint64_t{4} << 20;

}  // namespace snapgdb
