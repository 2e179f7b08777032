#include "core/image/extents.h"

#include <algorithm>

#include "core/base/error.h"

namespace snapgdb {
namespace {

// Whether `next` goes on where `last` ends, in the address space and in what lies behind it.
bool continues(const Extent& last, const Extent& next) {
  if (last.source != next.source || last.what != next.what || last.end() != next.start)
    return false;
  switch (last.source) {
    case pb::SOURCE_STORED:
      return last.where + last.size / kPageSize == next.where;
    case pb::SOURCE_FILE:
      return last.where + last.size == next.where;
    case pb::SOURCE_MISSING:
      return last.where == next.where;
    default:
      return true;
  }
}

[[noreturn]] void broken(std::string_view why) {
  throw Error("cannot read the extents of the image", std::string(why));
}

}  // namespace

void Extents::append(const Extent& extent) {
  if (extent.size == 0) return;
  if (!extents_.empty() && continues(extents_.back(), extent))
    extents_.back().size += extent.size;
  else
    extents_.push_back(extent);
}

void Extents::append_missing(uint64_t start, uint64_t size, std::string_view reason,
                             KeptBy kept_by) {
  auto known = index_of_.find(reason);
  if (known == index_of_.end()) {
    known = index_of_.emplace(reason, static_cast<uint32_t>(reasons_.size())).first;
    reasons_.emplace_back(reason);
  }
  append({start, size, pb::SOURCE_MISSING, static_cast<uint64_t>(kept_by), known->second});
}

void Extents::append_all(const Extents& later) {
  if (!later.extents_.empty() && later.extents_.front().start < end())
    broken("a later part of them does not go on where the earlier ended");
  for (const Extent& extent : later.extents_) {
    if (extent.source == pb::SOURCE_MISSING)
      append_missing(extent.start, extent.size, later.reason(extent), kept_by(extent));
    else
      append(extent);
  }
}

const Extent* Extents::find(uint64_t address) const {
  const auto after = std::ranges::upper_bound(extents_, address, {}, &Extent::start);
  if (after == extents_.begin()) return nullptr;
  const Extent& candidate = *std::prev(after);
  return address < candidate.end() ? &candidate : nullptr;
}

std::span<const Extent> Extents::overlapping(uint64_t start, uint64_t end) const {
  const auto first = std::ranges::upper_bound(extents_, start, {}, &Extent::end);
  const auto last = std::ranges::lower_bound(first, extents_.end(), end, {}, &Extent::start);
  return {first, last};
}

pb::ExtentMap Extents::to_record(size_t first, size_t count) const {
  pb::ExtentMap record;
  uint64_t end = 0;
  const auto runs = all().subspan(first).first(std::min(count, extents_.size() - first));
  for (const Extent& extent : runs) {
    record.add_gap((extent.start - end) / kPageSize);
    record.add_pages(extent.size / kPageSize);
    record.add_source(extent.source);
    record.add_where(extent.where);
    record.add_what(extent.what);
    end = extent.end();
  }
  for (const std::string& reason : reasons_) record.add_reasons(reason);
  return record;
}

Extents Extents::from_record(const pb::ExtentMap& record) {
  const int count = record.gap_size();
  if (record.pages_size() != count || record.source_size() != count ||
      record.where_size() != count || record.what_size() != count)
    broken("its columns differ in length");

  constexpr uint64_t kMaxPages = UINT64_MAX / kPageSize;
  Extents extents;
  for (const std::string& reason : record.reasons()) {
    extents.index_of_.emplace(reason, static_cast<uint32_t>(extents.reasons_.size()));
    extents.reasons_.push_back(reason);
  }
  extents.extents_.reserve(static_cast<size_t>(count));
  uint64_t page = 0;
  for (int i = 0; i < count; ++i) {
    const Extent run{0, 0, record.source(i), record.where(i), record.what(i)};
    if (record.gap(i) > kMaxPages - page) broken("an address is out of range");
    page += record.gap(i);
    if (record.pages(i) == 0 || record.pages(i) > kMaxPages - page) broken("a run is out of range");
    if (!pb::Source_IsValid(run.source)) broken("a run has an unknown source");
    if (run.source == pb::SOURCE_MISSING && run.what >= extents.reasons_.size())
      broken("a run has no reason");
    if (run.where > UINT64_MAX - record.pages(i) * kPageSize) broken("a run's origin overflows");
    Extent placed = run;
    placed.start = page * kPageSize;
    placed.size = record.pages(i) * kPageSize;
    extents.extents_.push_back(placed);
    page += record.pages(i);
  }
  return extents;
}

}  // namespace snapgdb
