#include "core/linux/pagemap.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <span>
#include <vector>

#include "core/base/error.h"

namespace snapgdb {
namespace {

constexpr uint64_t kPage = 4096;

}  // namespace

// include/uapi/linux/fs.h since Linux 6.7; Debian 12's headers are older.
struct ScanArguments {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

namespace {

constexpr unsigned long kPagemapScan = _IOWR('f', 16, ScanArguments);
// Flags. What is not tracked (the program may have mapped it anew meanwhile) is passed over by the
// one, and refused with EPERM by the other, PM_SCAN_CHECK_WPASYNC.
constexpr uint64_t kScanProtect = 1 << 0, kScanOnlyTracked = 1 << 1;
constexpr uint64_t kIsTracked = 1 << 0, kIsWritten = 1 << 1;  // categories
constexpr uint64_t kIsFile = 1 << 2, kIsPresent = 1 << 3, kIsSwapped = 1 << 4;
constexpr uint64_t kIsZero = 1 << 5;
constexpr uint64_t kIsGuard = 1 << 8;  // since 6.16

// Bits of an entry of /proc/PID/pagemap.
constexpr uint64_t kEntryPresent = uint64_t{1} << 63, kEntrySwapped = uint64_t{1} << 62,
                   kEntryFile = uint64_t{1} << 61, kEntryGuard = uint64_t{1} << 58;

PageClass class_of(bool here, bool file, bool guard) {
  if (guard) return PageClass::kGuard;
  if (!here) return PageClass::kAbsent;
  return file ? PageClass::kFile : PageClass::kAnonymous;
}

PageClass class_of_entry(uint64_t entry) {
  return class_of(entry & (kEntryPresent | kEntrySwapped), entry & kEntryFile, entry & kEntryGuard);
}

PageClass class_of_categories(uint64_t categories) {
  if (categories & kIsZero) return PageClass::kZero;
  return class_of(categories & (kIsPresent | kIsSwapped), categories & kIsFile,
                  categories & kIsGuard);
}

// Looking at as many pages takes as long as another call does.
constexpr uint64_t kWorthSkipping = 64 * kPage;
constexpr size_t kRegionsAtOnce = 256;

void set_range(ScanArguments& arguments, std::span<PageRegion> regions, uint64_t end) {
  arguments.size = sizeof arguments;
  arguments.end = end;
  arguments.vec = reinterpret_cast<uint64_t>(regions.data());
  arguments.vec_len = regions.size();
}

ScanArguments written_and_there() {
  ScanArguments arguments{};
  arguments.category_mask = kIsWritten;
  arguments.category_anyof_mask = kIsPresent | kIsSwapped;
  return arguments;
}

}  // namespace

Pagemap::Pagemap(const ProcDirectory& proc) : fd_(proc.open("pagemap", O_RDONLY)) {
  if (!fd_.valid()) throw_errno("cannot open {}/pagemap", proc.path());
}

bool Pagemap::can_scan() const {
  return scan(0, kPage, kIsFile, [](const PageRun&) {});
}

void Pagemap::classify(uint64_t start, uint64_t end, const Found& found) const {
  if (!scan(start, end, kIsFile, found)) read_entries(start, end, found);
}

void Pagemap::classify_anonymous(uint64_t start, uint64_t end, const Found& found) const {
  if (!scan(start, end, kIsZero, found)) read_entries(start, end, found);
}

// False: this kernel does not have it. Fills regions_ with what lies in [start, seen_end_).
bool Pagemap::scan_ahead(uint64_t start, uint64_t end, uint64_t kinds) const {
  regions_.resize(kRegionsAtOnce);
  ScanArguments arguments{};
  set_range(arguments, regions_, end);
  arguments.start = start;
  int n = -1;
  for (const uint64_t guard : {kIsGuard, uint64_t{0}}) {
    arguments.category_anyof_mask = kIsPresent | kIsSwapped | guard;
    arguments.return_mask = kIsTracked | kIsWritten | kinds | kIsPresent | kIsSwapped | guard;
    n = ::ioctl(fd_.get(), kPagemapScan, &arguments);
    if (n >= 0 || errno != EINVAL) break;
  }
  if (n < 0 && errno != ENOTTY && errno != EINVAL) throw_errno("cannot scan the page table");
  regions_.resize(static_cast<size_t>(std::max(n, 0)));
  seen_start_ = start;
  seen_kinds_ = kinds;
  seen_end_ = n < 0 ? start : arguments.walk_end;
  return n >= 0;
}

bool Pagemap::scan(uint64_t start, uint64_t end, uint64_t kind, const Found& found) const {
  constexpr uint64_t kKinds = kIsFile | kIsZero;
  const bool looks_ahead = horizon_ > end;
  uint64_t covered = start;
  for (uint64_t at = start; at < end; at = std::min(end, seen_end_)) {
    const bool is_seen =
        horizon_ != 0 && seen_start_ <= at && at < seen_end_ && (seen_kinds_ & kind);
    if (!is_seen && !scan_ahead(at, std::max(end, horizon_), looks_ahead ? kKinds : kind))
      return false;
    const auto first = std::ranges::upper_bound(regions_, at, {}, &PageRegion::end);
    for (const PageRegion& region : std::ranges::subrange(first, regions_.end())) {
      if (region.start >= end) break;
      const uint64_t from = std::max(region.start, at), to = std::min(region.end, end);
      if (from > covered) found({covered, from});
      found({from, to, class_of_categories(region.categories & (kind | ~kKinds)),
             (region.categories & (kIsTracked | kIsWritten)) == kIsTracked});
      covered = to;
    }
  }
  if (covered < end) found({covered, end});
  return true;
}

void Pagemap::classify_tracked(uint64_t start, uint64_t end, const Found& found) const {
  // The kernel's fast path is for exactly this question (fs/proc/task_mmu.c,
  // pagemap_scan_pmd_entry). A page that is not there counts as written, too.
  ScanArguments arguments{};
  arguments.category_mask = kIsWritten;
  // What has been mapped anew since is not tracked, and without a page table not even written.
  arguments.flags = kScanOnlyTracked;
  std::vector<PageRun> runs;
  if (!try_scan(arguments, start, end, runs)) return classify_anonymous(start, end, found);
  PageRun written{start, start};
  const auto end_run = [&] {
    if (written.start < written.end) classify_anonymous(written.start, written.end, found);
  };
  for (const PageRun& run : runs) {
    if (run.start - written.end > kWorthSkipping) {
      end_run();
      found({written.end, run.start, PageClass::kAnonymous, true});
      written.start = run.start;
    }
    written.end = run.end;
  }
  end_run();
  if (written.end < end) found({written.end, end, PageClass::kAnonymous, true});
}

// False: not all of it is tracked.
bool Pagemap::try_scan(const ScanArguments& arguments, uint64_t start, uint64_t end,
                       std::vector<PageRun>& runs) const try {
  scan_written(arguments, start, end, [&](uint64_t from, uint64_t to) {
    runs.push_back({from, to});
  });
  return true;
} catch (const SystemError& error) {
  if (error.error_number() != EPERM) throw;
  return false;
}

void Pagemap::protect_written(uint64_t start, uint64_t end, const FoundWritten& found) const {
  ScanArguments arguments = written_and_there();
  arguments.flags = kScanProtect;
  scan_written(arguments, start, end, found);
}

void Pagemap::for_each_written(uint64_t start, uint64_t end, const FoundWritten& found) const {
  scan_written(written_and_there(), start, end, found);
}

void Pagemap::scan_written(ScanArguments arguments, uint64_t start, uint64_t end,
                           const FoundWritten& found) const {
  std::array<PageRegion, 512> regions;
  set_range(arguments, regions, end);
  arguments.return_mask = kIsWritten;
  for (arguments.start = start; arguments.start < end; arguments.start = arguments.walk_end) {
    const int n = ::ioctl(fd_.get(), kPagemapScan, &arguments);
    if (n < 0) throw_errno("cannot scan the page table for written pages");
    for (const PageRegion& region : std::span(regions).first(static_cast<size_t>(n)))
      found(region.start, region.end);
  }
}

void Pagemap::for_each_entry(uint64_t start, uint64_t end, const FoundEntry& found) const {
  std::vector<uint64_t> entries(std::min<uint64_t>(32768, (end - start) / kPage));
  for (uint64_t at = start; at < end;) {
    const auto some =
        std::span(entries).first(std::min<uint64_t>(entries.size(), (end - at) / kPage));
    const size_t n = pread_upto(fd_.get(), std::as_writable_bytes(some),
                                at / kPage * sizeof(uint64_t), "pagemap");
    if (n == 0) break;
    for (const uint64_t entry : some.first(n / sizeof(uint64_t))) {
      found(at, entry);
      at += kPage;
    }
  }
}

void Pagemap::read_entries(uint64_t start, uint64_t end, const Found& found) const {
  PageRun run{start, start, PageClass::kAbsent};
  for_each_entry(start, end, [&](uint64_t at, uint64_t entry) {
    const PageClass here = class_of_entry(entry);
    if (here == run.what) return;
    if (at > run.start) found({run.start, at, run.what});
    run = {at, at, here};
  });
  if (run.start < end) found({run.start, end, run.what});
}

void Pagemap::for_each_present(uint64_t start, uint64_t end, const FoundPresent& found) const {
  uint64_t run = start;
  bool present = false;
  for_each_entry(start, end, [&](uint64_t at, uint64_t entry) {
    const bool here = entry & kEntryPresent;
    if (here == present) return;
    if (at > run) found(run, at, present);
    run = at, present = here;
  });
  if (run < end) found(run, end, present);
}

}  // namespace snapgdb
