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

PageWriter::Read reader(const RemoteMemory& memory, RemoteMemory::Way way) {
  return [&memory, way](uint64_t address, std::span<std::byte> out) {
    return memory.read(address, out, way);
  };
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
    const uint64_t size = mapping.size(MappingSize::kAnonymous);
    if (is_private_anonymous(mapping) && size >= kWorthTracking &&
        tracker_->add(mapping.start, mapping.end)) {
      to_copy_ += size;
      ways_.push_back(way_to_read(false, mapping.size(MappingSize::kSharedClean),
                                  mapping.size(MappingSize::kSharedDirty)));
    }
  }
}

// Protects everything, and looks how much is written in a moment.
bool PreCopy::is_too_busy() const {
  uint64_t pages = 0;
  for_each_slice([&](uint64_t from, uint64_t to, RemoteMemory::Way) {
    tracker_->take_written(
        from, to, [&](uint64_t start, uint64_t end) { pages += (end - start) / kPageSize; });
  });
  ::usleep(kProbe);
  const double seconds = static_cast<double>(pages) * kSecondsPerPage;
  const double written = static_cast<double>(tracker_->count_written());
  return written / (kProbe / 1e6) * seconds > static_cast<double>(pages) / 4;
}

// Slices of what is tracked.
void PreCopy::for_each_slice(
    const std::function<void(uint64_t from, uint64_t to, RemoteMemory::Way way)>& visit) const {
  const auto& ranges = tracker_->ranges();
  for (size_t i = 0; i < ranges.size(); ++i)
    for (uint64_t at = ranges[i].start; at < ranges[i].end; at += kSlice)
      visit(at, std::min(at + kSlice, ranges[i].end), ways_[i]);
}

void PreCopy::copy_all(PageWriter& pages) {
  pages.expect(to_copy_);
  const RemoteMemory memory(tid_, proc_);
  const Pagemap pagemap(proc_);
  for_each_slice([&](uint64_t from, uint64_t to, RemoteMemory::Way way) {
    pagemap.classify_anonymous(from, to, [&](const PageRun& run) {
      if (run.unwritten && run.what == PageClass::kAnonymous)
        pages.copy(copied_, run.start, run.end - run.start, reader(memory, way));
    });
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
  pages.expect(found * kPageSize);
  const RemoteMemory memory(tid_, proc_);
  Extents newer;
  for_each_slice([&](uint64_t from, uint64_t to, RemoteMemory::Way way) {
    tracker_->take_written(from, to, [&](uint64_t start, uint64_t end) {
      start += pages.copy(newer, start, end - start, reader(memory, way));
      // An older copy of what cannot be read now no longer holds.
      newer.append({start, end - start, pb::SOURCE_MISSING, 0, 0});
    });
  });
  pages.flush();
  copied_ = overlay(copied_, newer);
  return tracker_->count_written() < found * 2 / 3;
}

}  // namespace snapgdb
