// What the plan of an address space says, carried out.

#include <algorithm>

#include "core/base/error.h"
#include "core/resource/memory.h"

namespace snapgdb {
namespace {

using From = MemoryRun::From;

// Reads from where the run says, as PageWriter::Read does.
size_t read_run(const MemoryRun& run, const RemoteMemory& memory, uint64_t address,
                std::span<std::byte> out) {
  if (run.from == From::kMemory) return memory.read(address, out, run.way);
  const size_t n =
      pread_upto(run.object->get(), out, run.offset + (address - run.start), "shared memory");
  // Its last page is filled up with zeros, as the program sees it.
  std::ranges::fill(out.subspan(n), std::byte{0});
  return out.size();
}

constexpr const char* kRefused = "the kernel refuses to read it";

// Reads a run piece by piece with `read(address, size)`, which returns how much it got; the page
// where it stops is handed to `missing`.
template <typename Read, typename Missing>
void for_each_piece(const MemoryRun& run, Read read, Missing missing) {
  for (uint64_t done = 0; done < run.size;) {
    done += read(run.start + done, run.size - done);
    if (done == run.size) return;
    missing(run.start + done);
    done += kPageSize;
  }
}

}  // namespace

std::optional<uint64_t> Stash::take(size_t size) {
  const std::lock_guard lock(mutex_);
  if (size > memory_.bytes().size() - used_) return std::nullopt;
  return std::exchange(used_, used_ + size);
}

bool secure(std::vector<MemoryRun>& plan, const RemoteMemory& memory, Stash& stash,
            const std::function<bool(const MemoryRun&)>& wanted) {
  const auto is_read = [&](const MemoryRun& run) { return run.must_be_secured() && wanted(run); };
  std::vector<RemoteMemory::Range> ranges;  // they come first in the stash
  uint64_t fast = 0, other = 0;             // bytes
  for (const MemoryRun& run : plan) {
    if (!is_read(run)) continue;
    const bool is_fast = run.from == From::kMemory && run.way == RemoteMemory::Way::kFast;
    (is_fast ? fast : other) += run.size;
    if (is_fast) ranges.push_back({run.start, run.size});
  }
  const auto room = stash.take(fast + other);
  if (!room) return false;

  const uint64_t ready = *room + memory.read_all(ranges, stash.at(*room, fast));
  uint64_t next_fast = *room, next_other = *room + fast;
  std::vector<MemoryRun> result;
  result.reserve(plan.size());
  for (MemoryRun& run : plan) {
    if (!is_read(run)) {
      result.push_back(std::move(run));
      continue;
    }
    const bool is_fast = run.from == From::kMemory && run.way == RemoteMemory::Way::kFast;
    uint64_t& position = is_fast ? next_fast : next_other;
    const auto read = [&](uint64_t address, uint64_t size) {
      if (position + size <= ready) return size;
      return page_down(read_run(run, memory, address, stash.at(position, size)));
    };
    for_each_piece(
        run,
        [&](uint64_t address, uint64_t size) {
          const uint64_t got = read(address, size);
          if (got)
            result.push_back(
                {.start = address, .size = got, .from = From::kSecured, .offset = position});
          position += got;
          return got;
        },
        [&](uint64_t address) {
          result.push_back(
              {.start = address, .size = kPageSize, .from = From::kMissing, .why = kRefused});
        });
  }
  plan = std::move(result);
  return true;
}

Extents copy_memory(const std::vector<MemoryRun>& plan, const RemoteMemory& memory,
                    const Stash& stash, PageWriter& pages) {
  Extents extents;
  for (const MemoryRun& run : plan) {
    switch (run.from) {
      case From::kZero:
        extents.append({run.start, run.size, pb::SOURCE_ZERO, 0, 0});
        break;
      case From::kCopied:
        extents.append({run.start, run.size, pb::SOURCE_STORED, run.offset, 0});
        break;
      case From::kFile:
        extents.append({run.start, run.size, pb::SOURCE_FILE, run.offset, run.file});
        break;
      case From::kUntold:
        extents.append_missing(run.start, run.size, kOutOfReach);
        break;
      case From::kMissing:
        extents.append_missing(run.start, run.size, run.why, run.kept_by);
        break;
      case From::kSecured:
        pages.add(extents, run.start, stash.at(run.offset, run.size));
        break;
      case From::kMemory:
      case From::kObject: {
        const auto read = [&](uint64_t address, std::span<std::byte> out) {
          return read_run(run, memory, address, out);
        };
        for_each_piece(
            run,
            [&](uint64_t address, uint64_t size) {
              return pages.copy(extents, address, size, read);
            },
            [&](uint64_t address) { extents.append_missing(address, kPageSize, kRefused); });
        break;
      }
    }
  }
  pages.flush();
  return extents;
}

}  // namespace snapgdb
