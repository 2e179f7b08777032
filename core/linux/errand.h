#pragma once

#include <deque>
#include <utility>

#include "core/linux/detour.h"

namespace snapgdb {

// Tasks that were made on a detour and work off frames in its scratch memory. That is not as it was
// before they have all ended: whatever goes wrong, they are seen to their ends first, or else the
// memory is left to them.
class Errand {
 public:
  explicit Errand(Detour& detour) : detour_(detour) {}
  Errand(const Errand&) = delete;
  Errand& operator=(const Errand&) = delete;
  ~Errand() { see_to_end(); }

  Tracee& add(Tracee task) { return tasks_.emplace_back(std::move(task)); }
  // False: not all have ended.
  bool see_to_end();

 private:
  Detour& detour_;
  std::deque<Tracee> tasks_;
};

}  // namespace snapgdb
