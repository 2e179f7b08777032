#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "core/image/chunk.h"
#include "core/image/snapshot.h"

namespace snapgdb {

// Which pages an image holds: runs of ordinals.
class PageSet {
 public:
  // In ascending order of first_page.
  void add(PagePrefix pages);
  // Whether some page was added twice.
  bool overlap() const { return overlap_; }
  // The first of [ordinal, ordinal + count) that is not there; its end if all are.
  uint64_t first_absent(uint64_t ordinal, uint64_t count) const;
  // The same with the runs of pages that are not there made missing, for that reason.
  Extents without_lost(const Extents& extents) const;

 private:
  struct Run {
    uint64_t first = 0, end = 0;
  };
  std::vector<Run>::const_iterator after(uint64_t ordinal) const;

  std::vector<Run> runs_;
  bool overlap_ = false;
};

// Throws Error naming the first reference of the snapshot that leads nowhere: from memory and files
// to pages and to files, from processes to files, from the snapshot to its threads.
void check_references(const Snapshot& snapshot, const PageSet& pages);

// Throws Error naming the first embedded file of the snapshot whose content does not have the hash
// that its record says. Reads the files whose ids are not in `done` yet, and adds them.
void check_hashes(const Snapshot& snapshot, std::set<uint32_t>& done);

}  // namespace snapgdb
