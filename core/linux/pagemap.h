#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/base/fd.h"
#include "core/linux/procfs.h"

namespace snapgdb {

// What the page table of a process says of a page.
enum class PageClass {
  kAbsent,     // no page: never touched, or dropped
  kAnonymous,  // private to the process, in memory or swapped out
  kFile,       // the page of a file or of shared memory
  kZero,       // the zero page: anonymous memory that was read and never written
  kGuard,      // MADV_GUARD_INSTALL: touching it is a fault (Linux 6.13)
};

struct PageRun {
  uint64_t start = 0, end = 0;
  PageClass what = PageClass::kAbsent;
  // Write-protected by a WriteTracker, and not written since.
  bool unwritten = false;
};

struct ScanArguments;
struct PageRegion {  // struct page_region, include/uapi/linux/fs.h
  uint64_t start, end, categories;
};

// /proc/PID/pagemap, by the PAGEMAP_SCAN ioctl where the kernel has it (6.7), otherwise by reading
// an entry for each page (Documentation/admin-guide/mm/pagemap.rst).
class Pagemap {
 public:
  explicit Pagemap(const ProcDirectory& proc);
  // Whether the kernel has that ioctl; only by it is told which pages were written.
  bool can_scan() const;
  // Calls `found` for adjoining runs that together cover [start, end).
  using Found = std::function<void(const PageRun&)>;
  void classify(uint64_t start, uint64_t end, const Found& found) const;
  // How far classify() and classify_anonymous() may look beyond what they are asked for, since the
  // next question will be about that: a call for each mapping takes longer than the looking does.
  // Precondition: until then nothing changes.
  void look_ahead_to(uint64_t end) { horizon_ = end; }
  // The same of anonymous memory, where there are kZero pages but no kFile ones: ten times faster,
  // since the kernel need not look at each page itself.
  void classify_anonymous(uint64_t start, uint64_t end, const Found& found) const;
  // The same where writes are tracked, and again ten times faster: of what was not written since,
  // the kernel only says just that (kAnonymous, though it may be a zero page).
  void classify_tracked(uint64_t start, uint64_t end, const Found& found) const;

  // Calls `found` for adjoining runs that cover [start, end), by whether they are in memory; what
  // else may look like a page that is swapped out is not.
  using FoundPresent = std::function<void(uint64_t start, uint64_t end, bool present)>;
  void for_each_present(uint64_t start, uint64_t end, const FoundPresent& found) const;

  // In ranges whose writes are tracked: calls `found` for each run of pages that are there and were
  // written, and write-protects them in the same step. Throws SystemError.
  using FoundWritten = std::function<void(uint64_t start, uint64_t end)>;
  void protect_written(uint64_t start, uint64_t end, const FoundWritten& found) const;
  // The same without protecting them.
  void for_each_written(uint64_t start, uint64_t end, const FoundWritten& found) const;

 private:
  bool scan(uint64_t start, uint64_t end, uint64_t kind, const Found& found) const;
  bool scan_ahead(uint64_t start, uint64_t end, uint64_t kinds) const;
  bool try_scan(const ScanArguments& arguments, uint64_t start, uint64_t end,
                std::vector<PageRun>& runs) const;
  void scan_written(ScanArguments arguments, uint64_t start, uint64_t end,
                    const FoundWritten& found) const;
  void read_entries(uint64_t start, uint64_t end, const Found& found) const;
  using FoundEntry = std::function<void(uint64_t address, uint64_t entry)>;
  void for_each_entry(uint64_t start, uint64_t end, const FoundEntry& found) const;

  Fd fd_;
  uint64_t horizon_ = 0;
  mutable std::vector<PageRegion> regions_;  // that were found in [seen_start_, seen_end_)
  mutable uint64_t seen_start_ = 0, seen_end_ = 0, seen_kinds_ = 0;
};

}  // namespace snapgdb
