#include "core/resource/residence.h"

#include <sys/syscall.h>

#include <algorithm>

#include "core/base/strings.h"
#include "core/resource/hosts.h"

namespace snapgdb {
namespace {

using From = MemoryRun::From;

constexpr size_t kPagesAtOnce = 4096;  // a byte each, in the process's scratch memory

// What is neither in memory nor swapped out was never touched. smaps counts what an object has in
// swap, whoever put it there (shmem_partial_swap_usage(), Linux 4.5).
bool is_swapped_in_part(const std::vector<ProcMapping>& mappings, const MemoryRun& run) {
  const auto behind = std::ranges::upper_bound(mappings, run.start, {}, &ProcMapping::start);
  return behind == mappings.begin() || std::prev(behind)->size(MappingSize::kSwap) != 0;
}

class Asking {
 public:
  Asking(const Host& host, std::vector<MemoryRun>& out)
      : detour_(*host.task, host.place, kPagesAtOnce), out_(out) {}

  void settle(const MemoryRun& run, bool is_swapped) {
    constexpr uint64_t kAtOnce = kPagesAtOnce * kPageSize;
    for (uint64_t start = run.start; start < run.start + run.size; start += kAtOnce)
      settle_piece(start, std::min(kAtOnce, run.start + run.size - start), is_swapped);
  }

 private:
  void settle_piece(uint64_t start, uint64_t size, bool is_swapped) {
    std::vector<std::byte> resident(size / kPageSize);
    if (detour_.call(SYS_mincore, {start, size, detour_.scratch()}) != 0)
      return add(start, size, From::kMissing, kOutOfReach);
    detour_.read(detour_.scratch(), resident);
    for (size_t page = 0; page < resident.size(); ++page) {
      const uint64_t at = start + page * kPageSize;
      if ((resident[page] & std::byte{1}) != std::byte{0})
        add(at, kPageSize, From::kMemory, "");
      else if (is_swapped)
        add(at, kPageSize, From::kMissing, kSwappedOrUntouched);
      else
        add(at, kPageSize, From::kZero, "");
    }
  }

  void add(uint64_t start, uint64_t size, From from, const char* why) {
    MemoryRun* last = out_.empty() ? nullptr : &out_.back();
    if (last && last->from == from && last->start + last->size == start && last->why == why)
      last->size += size;
    else
      out_.push_back({.start = start, .size = size, .from = from, .why = why});
  }

  static constexpr const char* kSwappedOrUntouched =
      "shared memory, swapped out or never touched: telling that apart needs "
      "CAP_CHECKPOINT_RESTORE";

  Detour detour_;
  std::vector<MemoryRun>& out_;
};

}  // namespace

void ask_what_is_resident(std::vector<MemoryRun>& plan, const FrozenProcess& frozen,
                          CaptureContext& context) {
  const auto is_untold = [](const MemoryRun& run) { return run.from == From::kUntold; };
  if (std::ranges::none_of(plan, is_untold)) return;
  const Host host = host_in(frozen, context, kPagesAtOnce);
  if (!host.task) return;  // they count as missing
  const std::vector<ProcMapping> mappings = parse_mappings(frozen.task_proc.read("smaps"));
  std::vector<MemoryRun> settled;
  Asking asking(host, settled);
  for (MemoryRun& run : plan)
    if (is_untold(run))
      asking.settle(run, is_swapped_in_part(mappings, run));
    else
      settled.push_back(std::move(run));
  plan = std::move(settled);
}

}  // namespace snapgdb
