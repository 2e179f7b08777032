#include "core/image/snapshot.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>

#include "core/base/error.h"

namespace snapgdb {
namespace {

constexpr size_t kRegistersSize = 27 * 8;  // struct user_regs_struct, x86-64

// The end of what a program can map with five-level page tables,
// Documentation/arch/x86/x86_64/mm.rst; above it the kernel shows but the vsyscall page.
constexpr uint64_t kUserEnd = uint64_t{1} << 56, kVsyscall = 0xffff'ffff'ff60'0000;

bool is_possible(const pb::Vma& vma) {
  return vma.start() < vma.end() && vma.start() % kPageSize == 0 && vma.end() % kPageSize == 0 &&
         (vma.end() <= kUserEnd ||
          (vma.start() == kVsyscall && vma.end() == kVsyscall + kPageSize));
}

[[noreturn]] void contradiction(std::string why) {
  throw Error("cannot use the snapshot", std::move(why), "the image is damaged or was forged");
}

// Why memory that lies in a file cannot be read; nullptr: which is not described.
std::string why_not_in(const pb::FileRecord* file) {
  if (!file) return "it lies in a file that the image does not describe";
  return fmt::format("it lies in {}, which is not in the image: {}", file->path(),
                     file->why_not_embedded());
}

// What one extent has of [start, end), unless it lies in a file.
ContentRun run_of(const Extents& extents, const Extent& extent, uint64_t start, uint64_t end) {
  switch (extent.source) {
    case pb::SOURCE_STORED:
      return {.kind = ContentRun::Kind::kStored, .start = start, .end = end};
    case pb::SOURCE_ZERO:
      return {.kind = ContentRun::Kind::kZeros, .start = start, .end = end};
    default:
      return {.kind = ContentRun::Kind::kMissing,
              .start = start,
              .end = end,
              .reason = extents.reason(extent),
              .kept_by = Extents::kept_by(extent)};
  }
}

// Throws, since a file's content cannot be read at `offset`.
[[noreturn]] void no_content(const pb::FileRecord& file, const Extents& content, uint64_t offset) {
  const Extent* extent = content.find(offset);
  throw Error(fmt::format("cannot read {} from the image", file.path()),
              extent && extent->source == pb::SOURCE_MISSING
                  ? fmt::format("at offset {} it is {}", offset, content.reason(*extent))
                  : fmt::format("it has no content at offset {}", offset));
}

const Extents& no_extents() {
  static const Extents kNone;
  return kNone;
}

}  // namespace

Snapshot::Snapshot(Contents contents) : contents_(std::move(contents)) {
  for (const pb::FileRecord& file : contents_.files) {
    if (!by_file_id_.emplace(file.id(), &file).second || file.id() == 0)
      contradiction(fmt::format("file {} is there twice", file.id()));
    if (!file.embedded()) continue;
    Extents content = Extents::from_record(file.content());
    for (const Extent& extent : content.all())  // so that following origins always ends
      if (extent.source != pb::SOURCE_STORED && extent.source != pb::SOURCE_ZERO)
        contradiction(fmt::format("file {} is made of other files", file.id()));
    if (const auto known = contents_.salvaged_files.find(file.id());
        known != contents_.salvaged_files.end())
      content = std::move(known->second);
    file_extents_.emplace(file.id(), std::move(content));
  }
  for (const pb::Process& process : contents_.processes)
    if (!by_pid_.emplace(process.pid(), &process).second)
      contradiction(fmt::format("process {} is there twice", process.pid()));
  check();
}

void Snapshot::check() const {
  if (!by_pid_.contains(contents_.record.root_pid()))
    contradiction("its root process is not there");
  for (const pb::Process& process : contents_.processes) {
    if (process.address_space() && !contents_.address_spaces.contains(process.address_space()))
      contradiction(fmt::format("the memory of process {} is not there", process.pid()));
    for (const pb::Thread& thread : process.threads())
      if (!thread.registers().empty() && thread.registers().size() != kRegistersSize)
        contradiction(fmt::format("thread {} has broken registers", thread.tid()));
    for (const pb::Vma& vma : process.mappings())
      if (!is_possible(vma))
        contradiction(fmt::format("process {} has a mapping at {:#x} to {:#x}, which cannot be",
                                  process.pid(), vma.start(), vma.end()));
    const auto starts_before = [](const pb::Vma& a, const pb::Vma& b) {
      return a.end() <= b.start();
    };
    if (std::ranges::adjacent_find(process.mappings(), std::not_fn(starts_before)) !=
        process.mappings().end())
      contradiction(fmt::format("the mappings of process {} overlap", process.pid()));
  }
}

const pb::Process& Snapshot::root() const {
  return *by_pid_.at(contents_.record.root_pid());
}

const pb::Process* Snapshot::process(int32_t pid) const {
  const auto found = by_pid_.find(pid);
  return found == by_pid_.end() ? nullptr : found->second;
}

const Extents& Snapshot::extents(const pb::Process& process) const {
  const auto found = contents_.address_spaces.find(process.address_space());
  return found == contents_.address_spaces.end() ? no_extents() : found->second;
}

const pb::AddressSpace& Snapshot::address_space(const pb::Process& process) const {
  const auto found = contents_.space_records.find(process.address_space());
  return found == contents_.space_records.end() ? pb::AddressSpace::default_instance()
                                                : found->second;
}

void Snapshot::visit_memory(const pb::Process& process, uint64_t start, uint64_t end,
                            const VisitRun& visit) const {
  const Extents& known = extents(process);
  for (const Extent& extent : known.overlapping(start, end)) {
    const uint64_t first = std::max(extent.start, start), stop = std::min(extent.end(), end);
    if (first >= stop) continue;
    if (extent.source == pb::SOURCE_FILE)
      visit_file(extent, first, stop, visit);
    else
      visit(run_of(known, extent, first, stop));
  }
}

// [start, end) lies within the extent.
void Snapshot::visit_file(const Extent& extent, uint64_t start, uint64_t end,
                          const VisitRun& visit) const {
  using Kind = ContentRun::Kind;
  const pb::FileRecord* origin = file(extent.what);
  if (!origin || !origin->embedded())
    return visit({Kind::kMissing, start, end, true, why_not_in(origin)});
  const uint64_t base = extent.start - extent.where;  // where offset 0 would be, modulo 2^64
  uint64_t at = start - base;                         // offsets in the file from here on
  const uint64_t last = std::clamp(page_up(origin->size()), at, end - base);
  const auto show_gap = [&](uint64_t next) {
    if (at < next)
      visit({Kind::kMissing, at + base, next + base, true,
             fmt::format("it lies in {}, which is in the image only in part", origin->path())});
  };
  const Extents& content = file_extents_.at(origin->id());
  for (const Extent& part : content.overlapping(at, last)) {
    show_gap(part.start);
    const uint64_t first = std::max(part.start, at), stop = std::min(part.end(), last);
    if (first >= stop) continue;
    ContentRun run = run_of(content, part, first + base, stop + base);
    run.in_file = true;
    if (run.kind == Kind::kMissing)
      run.reason = fmt::format("it lies in {}, and is {}", origin->path(), run.reason);
    visit(run);
    at = stop;
  }
  show_gap(last);
  if (last < end - base)
    visit({Kind::kBeyondEnd, last + base, end, true,
           fmt::format("beyond the end of {}", origin->path()), KeptBy::kKernel});
}

std::vector<Snapshot::Lack> Snapshot::missing_memory(const pb::Process& process) const {
  std::map<std::string, Lack> by_reason;
  visit_memory(process, 0, UINT64_MAX, [&](const ContentRun& run) {
    if (run.kind == ContentRun::Kind::kMissing)
      by_reason.try_emplace(run.reason, Lack{run.reason, run.kept_by}).first->second.bytes +=
          run.size();
  });
  std::vector<Lack> lacks;
  for (auto& [reason, lack] : by_reason) lacks.push_back(std::move(lack));
  return lacks;
}

uint64_t Snapshot::captured_bytes(const pb::Process& process, uint64_t start, uint64_t end) const {
  uint64_t bytes = 0;
  visit_memory(process, start, end, [&](const ContentRun& run) {
    if (run.readable()) bytes += run.size();
  });
  return bytes;
}

const pb::Vma* Snapshot::mapping(const pb::Process& process, uint64_t address) const {
  const auto& mappings = process.mappings();
  const auto after = std::ranges::upper_bound(mappings, address, {}, &pb::Vma::start);
  if (after == mappings.begin()) return nullptr;
  const pb::Vma& candidate = *std::prev(after);
  return address < candidate.end() ? &candidate : nullptr;
}

size_t Snapshot::read_memory(const pb::Process& process, uint64_t address,
                             std::span<std::byte> out) const {
  return read_extents(extents(process), address, out);
}

std::string Snapshot::missing_reason(const pb::Process& process, uint64_t address) const {
  if (!extents(process).find(address))
    return mapping(process, address) ? "not captured" : "not mapped";
  std::string reason;
  visit_memory(process, address, address + 1, [&](const ContentRun& run) { reason = run.reason; });
  return reason;
}

const pb::FileRecord* Snapshot::file(uint32_t id) const {
  const auto found = by_file_id_.find(id);
  return found == by_file_id_.end() ? nullptr : found->second;
}

const pb::FileRecord* Snapshot::embedded_file(std::string_view path) const {
  const pb::FileRecord* best = nullptr;
  for (const pb::FileRecord& file : contents_.files) {
    if (!file.embedded() || file.nameless() || file.path() != path) continue;
    if (!best || (best->deleted() && !file.deleted())) best = &file;
  }
  return best;
}

const pb::FileRecord* Snapshot::debug_file(std::string_view build_id) const {
  const auto found = std::ranges::find_if(contents_.files, [&](const pb::FileRecord& file) {
    return file.embedded() && file.role() == pb::FILE_DEBUG && file.build_id() == build_id;
  });
  return found == contents_.files.end() || build_id.empty() ? nullptr : &*found;
}

size_t Snapshot::read_file(const pb::FileRecord& file, uint64_t offset,
                           std::span<std::byte> out) const {
  const size_t n = read_content(file, offset, out);
  if (n < out.size() && offset + n < file.size())
    no_content(file, file_extents_.at(file.id()), offset + n);
  return n;
}

// As much as there is without a break.
size_t Snapshot::read_content(const pb::FileRecord& file, uint64_t offset,
                              std::span<std::byte> out) const {
  if (offset >= file.size()) return 0;
  out = out.first(std::min<uint64_t>(out.size(), file.size() - offset));
  return read_extents(file_extents_.at(file.id()), offset, out);
}

std::string Snapshot::file_contents(const pb::FileRecord& file, uint64_t* lost) const {
  const Extents& content = file_extents_.at(file.id());
  if (file.size() > content.end())
    throw Error(fmt::format("cannot read {} from the image", file.path()),
                "it claims to be larger than its content");
  std::string bytes(file.size(), '\0');
  const auto out = std::as_writable_bytes(std::span(bytes));
  for (uint64_t at = 0; at < file.size();) {
    at += read_content(file, at, out.subspan(at));
    if (at == file.size()) break;
    const Extent* part = content.find(at);
    if (!lost || !part || part->source != pb::SOURCE_MISSING) no_content(file, content, at);
    const uint64_t end = std::min(part->end(), file.size());
    *lost += end - at;
    at = end;
  }
  return bytes;
}

uint64_t Snapshot::lost_bytes(const pb::FileRecord& file) const {
  uint64_t lost = 0;
  for (const Extent& extent : file_extents_.at(file.id()).overlapping(0, file.size()))
    if (extent.source == pb::SOURCE_MISSING)
      lost += std::min(extent.end(), file.size()) - extent.start;
  return lost;
}

size_t Snapshot::read_extents(const Extents& extents, uint64_t address,
                              std::span<std::byte> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const uint64_t at = address + done;
    const Extent* extent = at < address ? nullptr : extents.find(at);
    if (!extent) break;
    const uint64_t offset = at - extent->start;
    const size_t want = std::min<uint64_t>(out.size() - done, extent->size - offset);
    const size_t n = read_extent(*extent, offset, out.subspan(done, want));
    done += n;
    if (n < want) break;
  }
  return done;
}

// `offset` and out.size() lie within the extent.
size_t Snapshot::read_extent(const Extent& extent, uint64_t offset,
                             std::span<std::byte> out) const {
  switch (extent.source) {
    case pb::SOURCE_ZERO:
      std::ranges::fill(out, std::byte{0});
      return out.size();
    case pb::SOURCE_STORED: {
      std::array<std::byte, kPageSize> page;
      for (size_t done = 0; done < out.size();) {
        const uint64_t at = offset + done, in_page = at % kPageSize;
        const uint64_t ordinal = extent.where + at / kPageSize;
        size_t n = std::min<size_t>(kPageSize - in_page, out.size() - done);
        if (n == kPageSize) {
          n = page_down(out.size() - done);
          contents_.pages->read_pages(ordinal, out.subspan(done, n));
        } else {
          contents_.pages->read_page(ordinal, page);
          std::memcpy(out.data() + done, page.data() + in_page, n);
        }
        done += n;
      }
      return out.size();
    }
    case pb::SOURCE_FILE: {
      const pb::FileRecord* origin = file(extent.what);
      if (!origin || !origin->embedded()) return 0;
      const uint64_t in_file = extent.where + offset;
      const size_t n = read_content(*origin, in_file, out);
      if (n < out.size() && in_file + n < origin->size()) return n;
      // The kernel fills the page that holds the end of a file up with zeros.
      const uint64_t readable = page_up(origin->size());
      const size_t padded =
          in_file < readable ? std::min<uint64_t>(out.size(), readable - in_file) : 0;
      if (padded > n) std::ranges::fill(out.subspan(n, padded - n), std::byte{0});
      return std::max(n, padded);
    }
    default:
      return 0;
  }
}

}  // namespace snapgdb
