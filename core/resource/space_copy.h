#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/linux/twin.h"
#include "core/resource/memory.h"

namespace snapgdb {

// One address space on its way into the image: planned and secured against change while the tree is
// stopped, written when it runs again.
class SpaceCopy {
 public:
  // Precondition: the mappings of `process`, which is that of `frozen`, were captured.
  SpaceCopy(const FrozenProcess& frozen, const pb::Process& process, CaptureContext& context,
            const MemoryOptions& options);

  // Bytes that are not safe yet.
  uint64_t to_secure() const;
  // Bytes that copy() will read; 0 once it has.
  uint64_t to_read() const;
  // Reads everything into the stash, unless it is so much that a twin would be better. May be
  // called by any thread.
  void secure_by_reading(Stash& stash);
  // The same for what was left, with a twin if one can be made.
  void secure(CaptureContext& context, Stash& stash);
  // Whether something is left that can only be read as long as the tree is stopped.
  bool needs_stop() const { return to_secure() != 0; }

  // Reads what has not been read yet, and tells what lies where.
  const Extents& copy(const Stash& stash, PageWriter& pages);
  void settle(pb::Process& process, const MemoryOptions& options);

  // How it was secured: "pre-copy", "copied while stopped", "twin", "stop-copy".
  const std::string& method() const { return method_; }
  const std::string& why_not_better() const { return why_not_better_; }
  Pid pid() const { return frozen_->pid; }

 private:
  uint64_t bytes_for_twin() const;
  void try_twin(CaptureContext& context);

  const FrozenProcess* frozen_;
  std::vector<MemoryRun> plan_;
  RemoteMemory memory_;
  std::optional<Twin> twin_;
  std::optional<Extents> extents_;
  std::string method_, why_not_better_;
  const char* why_no_twin_;  // nullptr: one may be tried
  bool is_tracked_;          // by a userfaultfd of ours, until that is let go
};

}  // namespace snapgdb
