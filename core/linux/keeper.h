#pragma once

#include <functional>
#include <string>

#include "core/base/fd.h"
#include "core/base/ids.h"
#include "core/linux/seed.h"

namespace snapgdb {

// The process below which a restored tree lives: it opens the tree's files and bears its first
// process. It dies with us, and the tree with it, until it is told to let go.
class Keeper {
 public:
  struct Options {
    bool own_pids = false;  // a pid namespace (and /proc) of the tree's own
    bool own_user = false;  // and a user namespace, for who may not make the other otherwise
    int32_t root_pid = 0;   // the number of the first process
    uint64_t seed_base = 0;
    int file_base = 0;
    // What the tree's clocks shall show now (CLOCK_MONOTONIC, CLOCK_BOOTTIME); 0: as they are.
    int64_t monotonic_ns = 0, boottime_ns = 0;
  };
  // `open_files` runs in the keeper and returns what descriptors from file_base on will be. Throws
  // Error, also what open_files throws.
  Keeper(const Options& options, const std::function<std::vector<Fd>()>& open_files);
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;
  ~Keeper();

  Tid tid() const { return Tid{pid_.value}; }
  // "" if the clocks could be set; otherwise why not.
  const std::string& why_no_clocks() const { return why_no_clocks_; }
  // The first process of the tree, a seed. Once.
  Seed take_root();
  // From now on the tree lives without us.
  void let_go();
  // Waits for the first process's end; its status as wait(2) gives it.
  int wait();

 private:
  Pid pid_;
  Fd report_, control_;
  uint64_t seed_base_;
  std::string why_no_clocks_;
  bool holds_ = true;
};

}  // namespace snapgdb
