#pragma once

#include <cstddef>
#include <memory>
#include <mutex>

#include "core/base/fd.h"

namespace snapgdb {

// Options of other programs' sockets are changed for a moment, and are to be as they were even if
// we are killed meanwhile: a process that shares our memory and descriptors sees to that, from the
// first change on. One capture has one of these; of several threads, one changes something at a
// time.
class OptionGuard {
 public:
  OptionGuard();
  OptionGuard(const OptionGuard&) = delete;
  OptionGuard& operator=(const OptionGuard&) = delete;
  ~OptionGuard();

  static constexpr size_t kMaxChanges = 4;
  // What setsockopt(2) would be given to undo it; in the order in which it shall be.
  struct Change {
    int socket = -1, level = 0, name = 0, value = 0;
  };
  struct Shared;
  // Holds while it lives, and is undone by its end.
  class Scope {
   public:
    // Announces what may be changed from now on, when nobody else changes anything.
    Scope(OptionGuard& guard, const Change* changes, size_t count);
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope();

   private:
    std::unique_lock<std::mutex> lock_;
    Shared& shared_;
  };

 private:
  Shared& shared();

  std::mutex mutex_;
  std::unique_ptr<Shared> shared_;
};

// What is queued in a socket of a stopped program is looked at by MSG_PEEK, whatever SO_PEEK_OFF
// says.
OptionGuard::Change peek_offset_of(const Fd& socket);

}  // namespace snapgdb
