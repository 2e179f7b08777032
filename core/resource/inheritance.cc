#include "core/resource/inheritance.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <set>

#include "core/base/strings.h"
#include "core/resource/memory.h"
#include "core/resource/vdso.h"

namespace snapgdb {
namespace {

// Those that a mapping and its copy have in common: not its protection; fork(2) does not hand locks
// on, and "sd" says what was written of late.
std::set<std::string_view> inherited_flags(const pb::Vma& vma) {
  const auto words = split(vma.flags(), ' ');
  std::set<std::string_view> flags(words.begin(), words.end());
  for (const std::string_view other : {"rd", "wr", "ex", "lo", "lf", "sd", ""}) flags.erase(other);
  return flags;
}

bool is_alike(const pb::Vma& a, const pb::Vma& b) {
  const auto identity = [](const pb::Vma& vma) {
    return std::tuple(vma.start(), vma.shared(), vma.offset(), vma.device_major(),
                      vma.device_minor(), vma.inode(), vma.file(), vma.deleted(), vma.page_size(),
                      vma.protection_key());
  };
  return identity(a) == identity(b) && a.name() == b.name() &&
         inherited_flags(a) == inherited_flags(b);
}

bool has_gaps(const Extents& extents, const pb::Vma& vma) {
  return std::ranges::any_of(extents.overlapping(vma.start(), vma.end()), [](const Extent& extent) {
    return extent.source == pb::SOURCE_MISSING;
  });
}

// The same content at `at`, which lies in both.
bool is_same(const Extent& a, const Extent& b, uint64_t at) {
  if (a.source != b.source || a.what != b.what) return false;
  const auto place = [&](const Extent& extent) {
    const uint64_t offset = at - extent.start;
    return extent.where + (extent.source == pb::SOURCE_STORED ? offset / kPageSize : offset);
  };
  return a.source == pb::SOURCE_ZERO || place(a) == place(b);
}

}  // namespace

Inheritance::Inheritance(const Snapshot& snapshot, const pb::Process& process,
                         const pb::Process* parent)
    : snapshot_(snapshot), process_(process), parent_(parent) {
  if (!parent) return;
  for (const pb::Vma& own : process.mappings())
    if (const pb::Vma* theirs = snapshot.mapping(*parent, own.start());
        theirs && may_keep(own, *theirs))
      kept_.emplace(own.start(), Kept{&own, theirs});
}

// What may grow or shrink is a heap; a stack grows at its other end.
bool Inheritance::may_keep(const pb::Vma& own, const pb::Vma& parents) const {
  constexpr std::string_view kNotHandedOn[] = {"dc", "wf", "ht", "io", "pf"};
  return is_alike(own, parents) && !own.shared() && !is_kernel_part(own) &&
         (own.end() == parents.end() || (is_anonymous(own) && !has_flag(own, "gd"))) &&
         std::ranges::none_of(kNotHandedOn, [&](auto flag) { return has_flag(own, flag); }) &&
         !has_gaps(snapshot_.extents(process_), own) &&
         !has_gaps(snapshot_.extents(*parent_), parents);
}

void Inheritance::clear_the_rest(Seed& seed) const {
  if (!parent_) return;
  std::map<uint64_t, uint64_t> stay{{seed.base(), seed.base() + Seed::kSize}};
  for (const auto& [start, kept] : kept_) stay.emplace(start, kept.end());
  constexpr uint64_t kEndOfUserSpace = 0x7ffffffff000;
  stay.emplace(kEndOfUserSpace, kEndOfUserSpace);
  uint64_t at = 0;
  for (const auto& [start, end] : stay) {
    if (start > at) seed.add("unmap memory of the parent", SYS_munmap, {at, start - at});
    at = end;
  }
  for (const auto& [start, kept] : kept_)
    if (kept.own->end() > kept.end())
      seed.add("enlarge memory of the parent", SYS_mremap,
               {start, kept.end() - start, kept.own->end() - start, 0});
}

std::vector<Range> Inheritance::differing(const pb::Vma& vma) const {
  const auto kept = kept_.find(vma.start());
  if (kept == kept_.end()) return {{vma.start(), vma.end()}};
  const Extents& parents = snapshot_.extents(*parent_);
  std::vector<Range> ranges;
  for (const Extent& own : snapshot_.extents(process_).overlapping(vma.start(), vma.end())) {
    const uint64_t end = std::min(own.end(), vma.end());
    for (uint64_t at = std::max(own.start, vma.start()), next; at < end; at = next) {
      const Extent* theirs = at < kept->second.end() ? parents.find(at) : nullptr;
      next = theirs ? std::min({end, theirs->end(), kept->second.end()}) : end;
      if (theirs && is_same(own, *theirs, at)) continue;
      if (!ranges.empty() && ranges.back().end == at)
        ranges.back().end = next;
      else
        ranges.push_back({at, next});
    }
  }
  return ranges;
}

}  // namespace snapgdb
