#pragma once

#include <map>
#include <vector>

#include "core/image/snapshot.h"
#include "core/linux/seed.h"

namespace snapgdb {

struct Range {
  uint64_t start, end;
};

// What a process goes on having of the memory that it is born with, a copy-on-write clone of its
// parent's: pages that both had alike are there once, as they were.
class Inheritance {
 public:
  // `parent`: whose memory was complete when it was born; nullptr: it is born with none.
  Inheritance(const Snapshot& snapshot, const pb::Process& process, const pb::Process* parent);

  // Unmaps all but that, and the seed; what is kept gets its size.
  void clear_the_rest(Seed& seed) const;
  // The mapping as the parent has it; nullptr: it is not kept.
  const pb::Vma* kept(const pb::Vma& vma) const {
    const auto found = kept_.find(vma.start());
    return found == kept_.end() ? nullptr : found->second.parents;
  }
  // What of the mapping has another content than the process is born with.
  std::vector<Range> differing(const pb::Vma& vma) const;

 private:
  bool may_keep(const pb::Vma& own, const pb::Vma& parents) const;

  const Snapshot& snapshot_;
  const pb::Process& process_;
  const pb::Process* parent_;
  struct Kept {
    const pb::Vma *own, *parents;
    uint64_t end() const { return std::min(own->end(), parents->end()); }
  };
  std::map<uint64_t, Kept> kept_;  // by start
};

}  // namespace snapgdb
