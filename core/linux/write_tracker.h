#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/linux/detour.h"
#include "core/linux/pagemap.h"
#include "core/linux/procfs.h"

namespace snapgdb {

// Knows which pages of a running process were written since they were last asked for, by
// write-protecting them through a userfaultfd whose faults the kernel resolves itself
// (UFFD_FEATURE_WP_ASYNC, Linux 6.7; ioctl_userfaultfd(2),
// Documentation/admin-guide/mm/pagemap.rst). The program pays 1 µs for the first write to each page
// afterwards, and sees nothing.
//
// If we are killed, the kernel closes the userfaultfd, and all is as before.
class WriteTracker {
 public:
  // `host` is stopped; nothing happens to its program but a transient thread (Visitor).
  // Throws Error, saying what the kernel lacks or refuses.
  WriteTracker(Tracee& host, const Detour::Place& place, const ProcDirectory& proc);
  // Lets go of the ranges slice by slice: at one go the program would have to wait.
  ~WriteTracker();
  WriteTracker(WriteTracker&&) = default;

  // Why this kernel would not track writes for us; "" if it would.
  static std::string why_not_here();

  // False: the kernel cannot, for this kind of mapping. Whatever is in the range counts as written.
  bool add(uint64_t start, uint64_t end);

  // Calls `found` for each run of pages that are there and were written, and protects them again:
  // what is written from then on is found by the next call.
  using Found = std::function<void(uint64_t start, uint64_t end)>;
  void take_written(uint64_t start, uint64_t end, const Found& found) const;
  // How many pages of all ranges are there and were written since they were last taken.
  uint64_t count_written() const;

  struct Range {
    uint64_t start = 0, end = 0;
  };
  const std::vector<Range>& ranges() const { return ranges_; }

 private:
  Fd userfault_;
  Pagemap pagemap_;
  std::vector<Range> ranges_;
};

}  // namespace snapgdb
