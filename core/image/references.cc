#include "core/image/references.h"

#include <algorithm>
#include <memory>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/image/libxxhash.h"

namespace snapgdb {
namespace {

constexpr char kLost[] = "lost: the part of the image that held it is damaged or was cut off";

[[noreturn]] void dangling(std::string what, std::string where) {
  throw Error(std::move(what), std::move(where), "the image is damaged or was forged");
}

void check_stored(const Extents& extents, const PageSet& pages, const std::string& whose) {
  for (const Extent& extent : extents.all()) {
    if (extent.source != pb::SOURCE_STORED) continue;
    const uint64_t count = extent.size / kPageSize;
    if (const uint64_t page = pages.first_absent(extent.where, count); page < extent.where + count)
      dangling(whose, fmt::format("it refers to page {}, which is not there", page));
  }
}

void check_file_id(const Snapshot& snapshot, uint32_t id, const std::string& whose) {
  if (id != 0 && !snapshot.file(id))
    dangling(whose, fmt::format("it refers to file {}, which is not described", id));
}

void check_memory(const Snapshot& snapshot, const pb::Process& process, const PageSet& pages) {
  const auto whose = fmt::format("the memory of process {}", process.pid());
  const Extents& extents = snapshot.extents(process);
  check_stored(extents, pages, whose);
  for (const Extent& extent : extents.all()) {
    if (extent.source != pb::SOURCE_FILE) continue;
    if (extent.what == 0) dangling(whose, "a part of it lies in no file");
    check_file_id(snapshot, extent.what, whose);
    if (extent.where % kPageSize != 0) dangling(whose, "it begins in the middle of a file's page");
  }
}

void check_process(const Snapshot& snapshot, const pb::Process& process) {
  const auto whose = fmt::format("process {}", process.pid());
  check_file_id(snapshot, process.executable_file(), whose);
  for (const pb::Vma& vma : process.mappings())
    for (const uint32_t id : {vma.file(), vma.nameless()})
      check_file_id(snapshot, id,
                    fmt::format("the mapping of process {} at {:#x}", process.pid(), vma.start()));
  for_each_descriptor(process, [&](const pb::Descriptor& descriptor) {
    check_file_id(snapshot, descriptor.nameless(),
                  fmt::format("descriptor {} of process {}", descriptor.number(), process.pid()));
  });
}

std::string name_of(const pb::FileRecord& file) {
  return fmt::format("file {} ({})", file.id(), printable(file.path()));
}

void check_file(const pb::FileRecord& file, const PageSet& pages) {
  if (!file.embedded()) return;
  const std::string whose = name_of(file);
  const Extents content = Extents::from_record(file.content());
  check_stored(content, pages, whose);
  uint64_t end = 0;
  for (const Extent& extent : content.all()) {
    if (extent.start != end) dangling(whose, fmt::format("it has no content at offset {}", end));
    end = extent.end();
  }
  if (end != page_up(file.size())) dangling(whose, "its content is not as large as it should be");
}

// As FileRecord.hash has it.
std::string hash_of(const Snapshot& snapshot, const pb::FileRecord& file) {
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(::XXH3_createState(),
                                                                              ::XXH3_freeState);
  ::XXH3_128bits_reset(state.get());
  Bytes block(size_t{1} << 20);
  for (uint64_t at = 0; const size_t n = snapshot.read_file(file, at, block); at += n)
    ::XXH3_128bits_update(state.get(), block.data(), n);
  XXH128_canonical_t canonical;
  ::XXH128_canonicalFromHash(&canonical, ::XXH3_128bits_digest(state.get()));
  return {reinterpret_cast<const char*>(canonical.digest), sizeof canonical.digest};
}

// Parents come before their children, the root first; those whose parent is outside excepted.
void check_tree(const Snapshot& snapshot) {
  std::set<int32_t> seen, tids;
  for (const pb::Process& process : snapshot.processes()) {
    seen.insert(process.pid());
    if (snapshot.process(process.parent()) && !seen.contains(process.parent()))
      dangling(fmt::format("process {}", process.pid()), "it comes before its parent");
    for (const pb::Thread& thread : process.threads())
      if (!tids.insert(thread.tid()).second)
        dangling(fmt::format("thread {}", thread.tid()), "it is there twice");
  }
  const pb::SnapshotRecord& record = snapshot.record();
  if (record.focus_pid() != 0 && !snapshot.process(record.focus_pid()))
    dangling(fmt::format("process {}", record.focus_pid()),
             "the snapshot was taken for it, and it is not there");
}

}  // namespace

void PageSet::add(PagePrefix pages) {
  if (pages.pages == 0) return;
  if (runs_.empty() || runs_.back().end < pages.first_page)
    return runs_.push_back({pages.first_page, pages.first_page + pages.pages});
  overlap_ |= runs_.back().end > pages.first_page;
  runs_.back().end = std::max(runs_.back().end, pages.first_page + pages.pages);
}

// The first run that begins behind `ordinal`.
std::vector<PageSet::Run>::const_iterator PageSet::after(uint64_t ordinal) const {
  return std::ranges::upper_bound(runs_, ordinal, {}, &Run::first);
}

uint64_t PageSet::first_absent(uint64_t ordinal, uint64_t count) const {
  const auto next = after(ordinal);
  const uint64_t end = next == runs_.begin() ? 0 : std::prev(next)->end;
  return std::clamp(end, ordinal, ordinal + count);
}

Extents PageSet::without_lost(const Extents& extents) const {
  Extents kept;
  for (const Extent& extent : extents.all()) {
    if (extent.source == pb::SOURCE_MISSING) {
      kept.append_missing(extent.start, extent.size, extents.reason(extent),
                          Extents::kept_by(extent));
      continue;
    }
    if (extent.source != pb::SOURCE_STORED) {
      kept.append(extent);
      continue;
    }
    const uint64_t end = extent.where + extent.size / kPageSize;
    const auto address = [&](uint64_t ordinal) {
      return extent.start + (ordinal - extent.where) * kPageSize;
    };
    for (uint64_t at = extent.where; at < end;) {
      const uint64_t absent = first_absent(at, end - at);
      const auto next = after(absent);
      const uint64_t present = next == runs_.end() ? end : std::min(end, next->first);
      kept.append({address(at), (absent - at) * kPageSize, pb::SOURCE_STORED, at, 0});
      if (absent < end) kept.append_missing(address(absent), (present - absent) * kPageSize, kLost);
      at = absent < end ? present : end;
    }
  }
  return kept;
}

void check_references(const Snapshot& snapshot, const PageSet& pages) {
  check_tree(snapshot);
  std::set<uint32_t> spaces;
  for (const pb::Process& process : snapshot.processes()) {
    check_process(snapshot, process);
    if (spaces.insert(process.address_space()).second) check_memory(snapshot, process, pages);
  }
  for (const pb::FileRecord& file : snapshot.files()) check_file(file, pages);
}

void check_hashes(const Snapshot& snapshot, std::set<uint32_t>& done) {
  for (const pb::FileRecord& file : snapshot.files())
    if (file.embedded() && !file.hash().empty() && done.insert(file.id()).second &&
        hash_of(snapshot, file) != file.hash())
      dangling(name_of(file), "its content is another than its hash says");
}

}  // namespace snapgdb
