#include "elfconv/core_memory.h"

#include <elf.h>
#include <sys/mman.h>

#include <algorithm>

#include "core/base/error.h"

namespace snapgdb {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

// A run of zeros of at least this size becomes a segment of its own, and all of those share one
// hole at the end of the file. Programs reserve address space by the terabyte (sanitizers, garbage
// collectors, malloc's 64 MiB arenas), and a file of that size could not be created on ext4, let
// alone be copied by a tool that does not know holes. Thread stacks (8 MiB) stay in one piece.
constexpr uint64_t kSharedZeros = 32 * kMiB;
// The shared hole is at most this large, unless it would take more than kMaxPieces to fill in all
// zeros with it.
constexpr uint64_t kZeroPiece = 1024 * kMiB;
constexpr uint64_t kMaxPieces = 4096;

enum class Kind {
  kData,   // to be copied
  kZeros,  // reads as zeros
  kMissing,
};

struct Run {
  Kind kind = Kind::kData;
  uint64_t start = 0;
  uint64_t end = 0;
  std::string reason = {};  // kMissing
  bool in_file = false;
  bool lost = true;

  bool goes_on_as(const Run& next) const {
    return kind == next.kind && end == next.start && in_file == next.in_file && lost == next.lost &&
           reason == next.reason;
  }
};

uint32_t segment_flags(uint32_t protection) {
  return (protection & PROT_READ ? PF_R : 0) | (protection & PROT_WRITE ? PF_W : 0) |
         (protection & PROT_EXEC ? PF_X : 0);
}

// What lies behind one mapping, as runs without a gap.
class MappingRuns {
 public:
  MappingRuns(const Snapshot& snapshot, const pb::Process& process, const pb::Vma& vma, bool probe)
      : snapshot_(snapshot), process_(process), probe_(probe) {
    uint64_t at = vma.start();
    snapshot.visit_memory(process, vma.start(), vma.end(), [&](const ContentRun& run) {
      add({Kind::kMissing, at, run.start, "not captured"});
      add_run(run);
      at = run.end;
    });
    add({Kind::kMissing, at, vma.end(), "not captured"});
  }

  std::vector<Run> take() { return std::move(runs_); }

 private:
  void add(Run run) {
    if (run.start >= run.end) return;
    if (!runs_.empty() && runs_.back().goes_on_as(run))
      runs_.back().end = run.end;
    else
      runs_.push_back(std::move(run));
  }

  void add_run(const ContentRun& run) {
    switch (run.kind) {
      case ContentRun::Kind::kZeros:
        return add({Kind::kZeros, run.start, run.end});
      case ContentRun::Kind::kStored:
        return add_data(run.start, run.end);
      default:
        return add({Kind::kMissing, run.start, run.end, run.reason, run.in_file,
                    run.kept_by == KeptBy::kNobody});
    }
  }

  void add_data(uint64_t start, uint64_t end) {
    if (probe_)
      add_probed(start, end, kMiB);
    else
      add({Kind::kData, start, end});
  }

  // Reads in blocks; a block that cannot be read is tried page by page.
  void add_probed(uint64_t start, uint64_t end, uint64_t block) {
    std::vector<std::byte> buffer(block);
    for (uint64_t at = start; at < end;) {
      const uint64_t size = std::min(block, end - at);
      if (can_read(at, std::span(buffer).first(size)))
        add({Kind::kData, at, at + size});
      else if (size > kPageSize)
        add_probed(at, at + size, kPageSize);
      else
        add({Kind::kMissing, at, at + size, "damaged in the image, or cut off"});
      at += size;
    }
  }

  bool can_read(uint64_t address, std::span<std::byte> buffer) const {
    try {
      return snapshot_.read_memory(process_, address, buffer) == buffer.size();
    } catch (const Error&) {
      return false;
    }
  }

  const Snapshot& snapshot_;
  const pb::Process& process_;
  bool probe_;
  std::vector<Run> runs_;
};

// One segment for as much of a mapping as there is without a break.
void add_segments(const pb::Vma& vma, std::span<const Run> runs,
                  std::vector<LoadSegment>& segments) {
  const uint32_t flags = segment_flags(vma.protection());
  bool open = false;  // the last segment may be extended
  for (const Run& run : runs) {
    const uint64_t size = run.end - run.start;
    const bool shared = run.kind == Kind::kZeros && size >= kSharedZeros;
    if (run.kind == Kind::kMissing) {
      open = false;
    } else if (open && !shared) {
      segments.back().size += size;
    } else {
      segments.push_back({run.start, size, flags, shared});
      open = !shared;
    }
  }
}

// Cuts segments of zeros so that each fits the hole they share.
std::vector<LoadSegment> cut_zeros(std::span<const LoadSegment> segments) {
  uint64_t total = 0;
  for (const LoadSegment& segment : segments)
    if (segment.zeros) total += segment.size;
  const uint64_t piece = std::max(kZeroPiece, page_down(total / kMaxPieces) + kPageSize);

  std::vector<LoadSegment> cut;
  for (LoadSegment rest : segments) {
    while (rest.zeros && rest.size > piece) {
      cut.push_back({rest.address, piece, rest.flags, true});
      rest.address += piece;
      rest.size -= piece;
    }
    cut.push_back(rest);
  }
  return cut;
}

}  // namespace

CoreMemory divide_memory(const Snapshot& snapshot, const pb::Process& process, bool probe) {
  CoreMemory memory;
  for (const pb::Vma& vma : process.mappings()) {
    const std::vector<Run> runs = MappingRuns(snapshot, process, vma, probe).take();
    add_segments(vma, runs, memory.segments);
    for (const Run& run : runs)
      if (run.kind == Kind::kMissing)
        memory.missing.push_back(
            {run.start, run.end - run.start, vma.name(), run.reason, run.in_file, run.lost});
  }
  memory.segments = cut_zeros(memory.segments);
  return memory;
}

uint64_t place_segments(std::span<LoadSegment> segments, uint64_t offset) {
  uint64_t hole = 0;
  for (LoadSegment& segment : segments) {
    if (segment.zeros) {
      hole = std::max(hole, segment.size);
      continue;
    }
    offset = page_up(offset);
    segment.offset = offset;
    offset += segment.size;
  }
  if (hole == 0) return offset;
  offset = page_up(offset);
  for (LoadSegment& segment : segments)
    if (segment.zeros) segment.offset = offset;
  return offset + hole;
}

}  // namespace snapgdb
