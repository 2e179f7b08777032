#include "core/resource/precopy.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/linux/host_task.h"
#include "core/linux/remote_memory.h"
#include "core/linux/visitor.h"

namespace snapgdb {
namespace {

constexpr uint64_t kSlice = uint64_t{32} << 20;  // of a range, between two looks at it
constexpr uint64_t kWorthTracking = 512 * 1024;  // bytes of one mapping
constexpr useconds_t kProbe = 10'000;            // µs
constexpr double kSecondsPerPage = 2.5e-6;       // to read, hash and hand on
constexpr uint64_t kFewPages = 250;              // read again in a third of a millisecond

bool is_private_anonymous(const ProcMapping& mapping) {
  constexpr std::string_view kNotTrackable[] = {"io", "pf", "um", "uw", "ht", "dd", "ss"};
  return !mapping.shared && mapping.inode == 0 && mapping.name != "[stack]" &&
         !mapping.name.starts_with("[v") && (mapping.protection & PROT_WRITE) &&
         std::ranges::none_of(kNotTrackable,
                              [&](std::string_view flag) { return mapping.has_flag(flag); });
}

// Newer extents over older ones.
Extents overlay(const Extents& older, const Extents& newer) {
  Extents result;
  const auto add_older = [&](uint64_t start, uint64_t end) {
    for (Extent extent : older.overlapping(start, end)) {
      const uint64_t skipped = start > extent.start ? start - extent.start : 0;
      if (extent.source == pb::SOURCE_STORED) extent.where += skipped / kPageSize;
      extent.size = std::min(end, extent.end()) - (extent.start + skipped);
      extent.start += skipped;
      result.append(extent);
    }
  };
  uint64_t done = 0;
  for (const Extent& extent : newer.all()) {
    add_older(done, extent.start);
    result.append(extent);
    done = extent.end();
  }
  add_older(done, std::max(older.end(), done));
  return result;
}

PageWriter::Read reader(const RemoteMemory& memory) {
  return
      [&memory](uint64_t address, std::span<std::byte> out) { return memory.read(address, out); };
}

}  // namespace

PreCopy::PreCopy(Pid pid, const ProcDirectory& proc, const std::vector<ProcMapping>& mappings,
                 GadgetFinder& finder)
    : tid_(leader_of(pid)), proc_(ProcDirectory::of(pid)) {
  HostTask host = stop_a_host(proc, mappings, finder, Visitor::kScratch);
  tracker_.emplace(host.task, host.place, proc);
  host.task.detach_if_alive(host.task.signal_on_its_way());
  for (const ProcMapping& mapping : mappings) {
    // Always the whole of a mapping, also when letting go: mremap(2) fails where one is split.
    if (is_private_anonymous(mapping) && mapping.size_of("Anonymous") >= kWorthTracking)
      tracker_->add(mapping.start, mapping.end);
  }
}

// Protects everything, and looks how much is written in a moment.
bool PreCopy::is_too_busy() const {
  uint64_t pages = 0;
  for (const auto& range : tracker_->ranges())
    for (uint64_t at = range.start; at < range.end; at += kSlice)
      tracker_->take_written(
          at, std::min(at + kSlice, range.end),
          [&](uint64_t start, uint64_t end) { pages += (end - start) / kPageSize; });
  ::usleep(kProbe);
  const double seconds = static_cast<double>(pages) * kSecondsPerPage;
  const double written = static_cast<double>(tracker_->count_written());
  return written / (kProbe / 1e6) * seconds > static_cast<double>(pages) / 4;
}

void PreCopy::copy_all(PageWriter& pages) {
  const RemoteMemory memory(tid_, proc_);
  const Pagemap pagemap(proc_);
  for (const auto& range : tracker_->ranges())
    for (uint64_t at = range.start; at < range.end; at += kSlice)
      pagemap.classify_anonymous(at, std::min(at + kSlice, range.end), [&](const PageRun& run) {
        if (run.unwritten && run.what == PageClass::kAnonymous)
          pages.copy(copied_, run.start, run.end - run.start, reader(memory));
      });
  pages.flush();
}

bool PreCopy::tracks(uint64_t start, uint64_t end) const {
  return std::ranges::any_of(tracker_->ranges(), [&](const WriteTracker::Range& range) {
    return range.start <= start && end <= range.end;
  });
}

bool PreCopy::copy_again(PageWriter& pages) {
  const uint64_t found = tracker_->count_written();
  if (found <= kFewPages) return false;
  const RemoteMemory memory(tid_, proc_);
  Extents newer;
  for (const auto& range : tracker_->ranges())
    for (uint64_t at = range.start; at < range.end; at += kSlice)
      tracker_->take_written(at, std::min(at + kSlice, range.end),
                             [&](uint64_t start, uint64_t end) {
                               start += pages.copy(newer, start, end - start, reader(memory));
                               // An older copy of what cannot be read now no longer holds.
                               newer.append({start, end - start, pb::SOURCE_MISSING, 0, 0});
                             });
  pages.flush();
  copied_ = overlay(copied_, newer);
  return tracker_->count_written() < found * 2 / 3;
}

}  // namespace snapgdb
