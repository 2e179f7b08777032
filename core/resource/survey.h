#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/image/page_writer.h"
#include "core/linux/freezer.h"
#include "core/linux/gadgets.h"
#include "core/resource/precopy.h"

namespace snapgdb {

// What is learned of a process before the tree is stopped, since it would take too long then.
struct Survey {
  // From smaps; empty where that could not be read.
  std::vector<ProcMapping> mappings;
  std::optional<PreCopy> precopy;
  std::string why_not;  // no first copies were made of a large one
};

class Surveys {
 public:
  // Looks at the trees below `roots` while they run, and makes first copies of what is large.
  // A process that cannot be surveyed is none the worse for it: it takes longer when stopped.
  void look(const std::vector<Pid>& roots, PageWriter& pages);

  // Copies once more what was written since. Short; to be done just before the stop.
  void refresh(PageWriter& pages);

  Survey* find(Pid pid);
  // Bytes in memory, of all that were looked at, that are no file's and that a stop may have to
  // read: of what was copied, little is written again, or a twin is made.
  uint64_t to_secure() const;
  GadgetFinder& gadgets() { return gadgets_; }
  // Lets the processes write again without our being told, slowly: they may notice if it happens at
  // once.
  void release();

 private:
  void look_at(Pid pid);
  void copy(PageWriter& pages);

  std::map<Pid, Survey> surveys_;
  GadgetFinder gadgets_;
};

// The mappings of a process that is stopped, as smaps shows them; but of one that was surveyed,
// with the sizes and flags of the survey, since reading smaps takes time in proportion to memory.
// Flags are "" where the mapping is new since. They leave the survey: it is asked once.
std::vector<ProcMapping> mappings_now(const FrozenProcess& frozen, Survey* survey);

}  // namespace snapgdb
