// Address spaces, mapping by mapping: the counterpart of memory.cc.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <future>
#include <list>
#include <optional>
#include <thread>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/remote_memory.h"
#include "core/linux/scheduling.h"
#include "core/resource/inheritance.h"
#include "core/resource/memory.h"
#include "core/resource/resources.h"
#include "core/resource/sharing.h"
#include "core/resource/system_v.h"
#include "core/resource/vdso.h"

namespace snapgdb {
namespace {

// VmFlags of smaps (Documentation/filesystems/proc.rst), and the advice that sets them.
struct Advice {
  std::string_view flag;
  uint64_t advice;
};
constexpr Advice kAdvice[] = {
    {"sr", MADV_SEQUENTIAL}, {"rr", MADV_RANDOM},     {"dc", MADV_DONTFORK},
    {"dd", MADV_DONTDUMP},   {"wf", MADV_WIPEONFORK}, {"mg", MADV_MERGEABLE},
};
// Decides what pages the content comes into.
constexpr Advice kEarlyAdvice[] = {{"hg", MADV_HUGEPAGE}, {"nh", MADV_NOHUGEPAGE}};

// MAP_DROPPABLE, Linux 6.11: zeros may take the place of its content at any time, as they do in a
// child. It is there for the state of random number generators (vDSO getrandom), of which no two
// trees that are restored from one image may have the same: so its content stays in the image.
bool is_droppable(const pb::Vma& vma) {
  return has_flag(vma, "dp");
}

uint64_t map_flags(const pb::Vma& vma, int file) {
  constexpr uint64_t kDroppable = 0x08;  // MAP_DROPPABLE: neither shared nor private
  const uint64_t type = is_droppable(vma) ? kDroppable : vma.shared() ? MAP_SHARED : MAP_PRIVATE;
  uint64_t flags = MAP_FIXED_NOREPLACE | type;
  if (file < 0) flags |= MAP_ANONYMOUS;
  if (has_flag(vma, "gd")) flags |= MAP_GROWSDOWN;
  if (has_flag(vma, "nr")) flags |= MAP_NORESERVE;
  if (has_flag(vma, "ht"))
    flags |= MAP_HUGETLB | uint64_t(std::countr_zero(vma.page_size())) << MAP_HUGE_SHIFT;
  return flags;
}

// Memory that was writable once is accounted for ("ac"), and so must be again. Other memory that
// may not be written to is filled through /proc/PID/mem, which may, but for huge pages.
uint32_t first_protection(const pb::Vma& vma) {
  const bool writable = !vma.shared() && (has_flag(vma, "ac") || has_flag(vma, "ht"));
  return writable ? vma.protection() | PROT_WRITE : vma.protection();
}

std::string words_for(const pb::Vma& vma) {
  const std::string name = vma.name().empty() ? "anonymous memory" : printable(vma.name());
  return fmt::format("map {} at {:#x} to {:#x}", name, vma.start(), vma.end());
}

void advise(const pb::Vma& vma, std::span<const Advice> advices, Seed& seed) {
  for (const auto& [flag, advice] : advices)
    if (has_flag(vma, flag))
      seed.add("advise on memory", SYS_madvise, {vma.start(), vma.end() - vma.start(), advice});
}

void map(const pb::Vma& vma, const RestorePlan& plan, Seed& seed) {
  const int file = plan.file_of(vma);
  seed.add(words_for(vma), SYS_mmap,
           {vma.start(), vma.end() - vma.start(), first_protection(vma), map_flags(vma, file),
            static_cast<uint64_t>(file), vma.offset()});
  advise(vma, kEarlyAdvice, seed);
}

void install_guards(const pb::Vma& vma, const Extents& extents, Seed& seed) {
  constexpr uint64_t kGuardInstall = 102;  // MADV_GUARD_INSTALL, Linux 6.13
  for (const Extent& extent : extents.overlapping(vma.start(), vma.end())) {
    if (extent.source != pb::SOURCE_MISSING || extents.reason(extent) != kGuardPage) continue;
    const uint64_t start = std::max(extent.start, vma.start());
    seed.add("install guard pages", SYS_madvise,
             {start, std::min(extent.end(), vma.end()) - start, kGuardInstall});
  }
}

void protect(const pb::Vma& vma, uint32_t now, Seed& seed) {
  if (now != vma.protection())
    seed.add("protect memory", SYS_mprotect,
             {vma.start(), vma.end() - vma.start(), vma.protection()});
}

void lock(const pb::Vma& vma, Seed& seed) {
  if (!has_flag(vma, "lo")) return;
  const bool on_fault = has_flag(vma, "lf");
  seed.add_if_allowed(
      "lock memory", SYS_mlock2,
      {vma.start(), vma.end() - vma.start(), on_fault ? uint64_t{MLOCK_ONFAULT} : 0});
}

void finish(const pb::Vma& vma, const Extents& extents, Seed& seed) {
  const uint64_t size = vma.end() - vma.start();
  protect(vma, first_protection(vma), seed);
  install_guards(vma, extents, seed);
  advise(vma, kAdvice, seed);
  lock(vma, seed);
  constexpr std::string_view kNamed = "[anon:";
  if (std::string_view name = vma.name(); name.starts_with(kNamed)) {
    name = name.substr(kNamed.size(), name.size() - kNamed.size() - 1);
    constexpr uint64_t kSetVma = 0x53564d41;  // PR_SET_VMA; 0: PR_SET_VMA_ANON_NAME
    seed.add("name memory", SYS_prctl, {kSetVma, 0, vma.start(), size, seed.put(name)});
  }
}

// ---- Content ------------------------------------------------------------------------------------

struct Slice {
  uint64_t start, size;
  // nullptr: into the task's memory; otherwise a file, in which `start` is at `offset`: that of
  // shared memory, or /proc/PID/mem, which also writes where the program may not.
  const Fd* file;
  uint64_t offset;
  std::optional<uint64_t> page;  // its first one in the page store; nullopt: zeros
  // A private view of what the tree has as a file: pages that are as there were not written to, and
  // go on showing what others write there.
  bool is_view = false;
};
constexpr uint64_t kSlice = uint64_t{4} << 20;

// What is not there by itself: a fresh mapping has zeros, or its file's content.
bool is_written(const pb::Vma& vma, const Extent& extent) {
  const bool over_a_file = vma.file() != 0 || (!is_anonymous(vma) && !vma.shared());
  return extent.source == pb::SOURCE_STORED || (extent.source == pb::SOURCE_ZERO && over_a_file);
}

void add_slices(const pb::Vma& vma, Range range, const Extents& extents, const Fd* file,
                uint64_t file_offset, std::vector<Slice>& slices) {
  for (const Extent& extent : extents.overlapping(range.start, range.end)) {
    if (!is_written(vma, extent)) continue;
    const uint64_t end = std::min(extent.end(), range.end);
    for (uint64_t at = std::max(extent.start, range.start); at < end; at += kSlice) {
      slices.push_back(
          {at, std::min(kSlice, end - at), file, file_offset + (at - range.start), {}, false});
      if (extent.source == pb::SOURCE_STORED)
        slices.back().page = extent.where + (at - extent.start) / kPageSize;
    }
  }
}

// Shows all bytes of the slice to `put`, with the place of each piece in it.
template <typename Put>
void read_slice(const Snapshot& snapshot, const Slice& slice, const Put& put) {
  static const std::vector<std::byte> kZeros(size_t{64} << 10);
  uint64_t done = 0;
  const auto visit = [&](std::span<const std::byte> bytes) {
    bytes = bytes.first(std::min<uint64_t>(bytes.size(), slice.size - done));
    put(done, bytes);
    done += bytes.size();
  };
  if (slice.page)
    snapshot.pages().visit_pages(*slice.page, page_up(slice.size) / kPageSize, visit);
  else
    while (done < slice.size) visit(kZeros);
}

void write_at(Tid tid, const Slice& slice, uint64_t at, std::span<const std::byte> bytes) {
  if (slice.file)
    pwrite_all(slice.file->get(), bytes, slice.offset + at, "memory of the tree");
  else
    write_remote(tid, slice.start + at, bytes);
}

void write_where_different(Tid tid, const Slice& slice, uint64_t at,
                           std::span<const std::byte> bytes) {
  std::vector<std::byte> now(bytes.size());
  const size_t shown = read_remote(tid, slice.start + at, now);
  for (size_t page = 0; page < bytes.size(); page += kPageSize) {
    const auto wanted = bytes.subspan(page, std::min(kPageSize, bytes.size() - page));
    if (page + wanted.size() > shown ||
        !std::ranges::equal(wanted, std::span(now).subspan(page, wanted.size())))
      write_at(tid, slice, at + page, wanted);
  }
}

void write_slice(const Snapshot& snapshot, Tid tid, const Slice& slice) {
  const auto write = slice.is_view ? write_where_different : write_at;
  read_slice(snapshot, slice,
             [&](uint64_t at, std::span<const std::byte> bytes) { write(tid, slice, at, bytes); });
}

// Reading, unpacking and the faults of the new pages take as many processors as there are.
void write_slices(const RestoreContext& context, Tid tid, const std::vector<Slice>& slices) {
  std::atomic<size_t> next = 0;
  const auto work_off = [&] {
    for (size_t i = next++; i < slices.size(); i = next++) {
      write_slice(context.snapshot, tid, slices[i]);
      if (slices[i].page) count_done(context.progress, slices[i].size);
    }
  };
  std::vector<std::future<void>> others;
  const size_t workers = std::min<size_t>(slices.size(), std::thread::hardware_concurrency());
  for (size_t i = 1; i < workers; ++i)
    others.push_back(std::async(std::launch::async, [&] {
      ScopedPinning::release_this_thread();
      work_off();
    }));
  work_off();
  for (auto& other : others) other.get();
}

// What others share through a file of theirs is not for us to change; a file without a name has its
// content already.
bool is_in_a_file(const pb::Vma& vma, const RestorePlan& plan) {
  const auto file = plan.by_mapping.find(RestorePlan::key_of(vma));
  return vma.shared() && file != plan.by_mapping.end() &&
         (vma.nameless() || plan.files[file->second].how == PlannedFile::How::kOpened);
}

// Shared memory, through the file that the keeper made of it.
Fd open_shared(const RestoreContext& context, const pb::Vma& vma) {
  const int number = context.plan.file_of(vma);
  Fd file = ProcDirectory::of(Pid{context.keeper.value}).open(fmt::format("fd/{}", number), O_RDWR);
  if (!file.valid()) throw_errno("cannot open {}", printable(vma.name()));
  return file;
}

// Memory is whole pages; what lies in its last one behind the end of the file is not the file's.
void clip(std::span<Slice> slices, const Fd& file) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) throw_errno("cannot tell the size of shared memory");
  const auto end = static_cast<uint64_t>(status.st_size);
  for (Slice& slice : slices) slice.size = std::min(slice.size, end - std::min(end, slice.offset));
}

// ---- What may come later ------------------------------------------------------------------------

// Less than this is there sooner than the faults would be served.
constexpr uint64_t kLazyAtLeast = 256 * 1024;

// Private memory without a file, and without anything that a fault does not bring: its pages are
// locked, or guards, or shall not be inherited.
bool may_come_later(const pb::Vma& vma, const Extents& extents) {
  constexpr std::string_view kNot[] = {"lo", "lf", "wf", "dc", "ht", "gd", "io", "pf"};
  if (vma.file() != 0 || has_file(vma) || is_kernel_part(vma) || is_droppable(vma) ||
      std::ranges::any_of(kNot, [&](std::string_view flag) { return has_flag(vma, flag); }))
    return false;
  uint64_t stored = 0;
  for (const Extent& extent : extents.overlapping(vma.start(), vma.end())) {
    if (extent.source != pb::SOURCE_STORED && extent.source != pb::SOURCE_ZERO) return false;
    if (extent.source == pb::SOURCE_STORED) stored += extent.size;
  }
  return stored >= kLazyAtLeast;
}

// The kernel itself writes there while we restore.
std::vector<Range> needed_at_once(const pb::Process& process, const pb::Vma& vma) {
  std::vector<Range> ranges;
  for (const pb::Thread& thread : process.threads())
    if (thread.rseq() >= vma.start() && thread.rseq() < vma.end())
      ranges.push_back({page_down(thread.rseq()),
                        std::min(vma.end(), page_up(thread.rseq() + thread.rseq_size()))});
  return ranges;
}

void leave_for_later(const RestoreContext& context, const pb::Process& process, LazySpace space) {
  const Extents& extents = context.snapshot.extents(process);
  for (const pb::Vma& vma : process.mappings()) {
    if (!may_come_later(vma, extents)) continue;
    for (const Extent& extent : extents.overlapping(vma.start(), vma.end())) {
      if (extent.source != pb::SOURCE_STORED) continue;
      const uint64_t start = std::max(extent.start, vma.start());
      space.add_absent(start, std::min(extent.end(), vma.end()) - start,
                       extent.where + (start - extent.start) / kPageSize);
    }
    space.watch(vma.start(), vma.end() - vma.start());
  }
  context.lazy.push_back(std::move(space));
}

// nullopt: it is not wanted, or not possible here.
std::optional<LazySpace> lazy_space(const RestoreContext& context, const pb::Process& process,
                                    Seed& seed) {
  const Extents& extents = context.snapshot.extents(process);
  if (!context.plan.lazy || std::ranges::none_of(process.mappings(), [&](const pb::Vma& vma) {
        return may_come_later(vma, extents);
      }))
    return std::nullopt;
  try {
    return LazySpace(seed);
  } catch (const SystemError& error) {
    context.notes.push_back(fmt::format(
        "the memory of process {} is there before it runs: {} (--lazy needs CAP_SYS_PTRACE)",
        process.pid(), error.what()));
    return std::nullopt;
  }
}

// ---- Content, written ---------------------------------------------------------------------------

// What is shared first, since private views show it.
void write_content(const RestoreContext& context, const pb::Process& process, Tid tid, bool lazy,
                   const Inheritance& inheritance) {
  const Snapshot& snapshot = context.snapshot;
  const Fd mem = ProcDirectory::of(Pid{tid.value}).open("mem", O_RDWR);
  if (!mem.valid()) throw_errno("cannot open the memory of {}", tid.value);
  std::list<Fd> objects;
  std::vector<Slice> shared, own;
  for (const pb::Vma& vma : process.mappings()) {
    const Extents& extents = snapshot.extents(process);
    if (is_in_a_file(vma, context.plan) || is_kernel_part(vma) ||
        is_attached(context.plan, process, vma) || is_droppable(vma))
      continue;
    const Range whole{vma.start(), vma.end()};
    if (vma.shared()) {
      const size_t before = shared.size();
      const Fd& object = objects.emplace_back(open_shared(context, vma));
      add_slices(vma, whole, extents, &object, vma.offset(), shared);
      clip(std::span(shared).subspan(before), object);
    } else if (lazy && may_come_later(vma, extents)) {
      for (const Range& range : needed_at_once(process, vma))
        add_slices(vma, range, extents, &mem, range.start, own);
    } else {
      const size_t before = own.size();
      const pb::Vma* kept = inheritance.kept(vma);
      const uint32_t protection = kept ? kept->protection() : first_protection(vma);
      for (const Range& range : inheritance.differing(vma))
        add_slices(vma, range, extents, protection & PROT_WRITE ? nullptr : &mem, range.start, own);
      for (Slice& slice : std::span(own).subspan(before))
        slice.is_view = vma.file() == 0 && !is_anonymous(vma);
    }
  }
  write_slices(context, tid, shared);
  write_slices(context, tid, own);
  uint64_t written = 0;
  for (const auto* slices : {&shared, &own})
    for (const Slice& slice : *slices)
      if (slice.page) written += slice.size;
  // The rest is its parent's, or comes later.
  const uint64_t stored = stored_memory(snapshot, process);
  count_done(context.progress, stored - std::min(stored, written));
}

// ---- Address spaces -----------------------------------------------------------------------------

// What its parent has and it has not goes: then it is as in a fresh mapping.
void drop_differing(const pb::Vma& vma, const Extents& extents, const Inheritance& inheritance,
                    Seed& seed) {
  for (const Range& range : inheritance.differing(vma))
    for (const Extent& extent : extents.overlapping(range.start, range.end)) {
      const uint64_t start = std::max(extent.start, range.start);
      if (!is_written(vma, extent))
        seed.add("drop memory of the parent", SYS_madvise,
                 {start, std::min(extent.end(), range.end) - start, MADV_DONTNEED});
    }
}

// Once nothing of it has to change any more, also in those that are born with a copy of it.
void seal(RestoreContext& context, const pb::Process& process, Seed& seed) {
  constexpr long kMseal = 462;  // mseal(2), Linux 6.10
  if (!is_first_to_share(context.snapshot, process, kMemory)) return;
  for (const pb::Vma& vma : process.mappings())
    if (has_flag(vma, "sl") && !is_kernel_part(vma))
      seed.add_if_allowed("seal memory", kMseal, {vma.start(), vma.end() - vma.start(), 0});
  context.perform(seed, process.pid());
}

}  // namespace

const ProcessRestorer kSealRestorer{"sealed memory", seal};

uint64_t stored_memory(const Snapshot& snapshot, const pb::Process& process) {
  uint64_t bytes = 0;
  if (process.address_space())
    for (const Extent& extent : snapshot.extents(process).all())
      if (extent.source == pb::SOURCE_STORED) bytes += extent.size;
  return bytes;
}

void restore_memory(RestoreContext& context, const pb::Process& process, const pb::Process* parent,
                    Seed& seed) {
  const Extents& extents = context.snapshot.extents(process);
  const Inheritance inheritance(context.snapshot, process, parent);
  if (parent) park_kernel_parts(*parent, context.plan, seed);
  inheritance.clear_the_rest(seed);
  attach_segments(context, process, seed);
  for (const pb::Vma& vma : process.mappings())
    if (inheritance.kept(vma))
      drop_differing(vma, extents, inheritance, seed);
    else if (!is_kernel_part(vma) && !is_attached(context.plan, process, vma))
      map(vma, context.plan, seed);
  add_kernel_parts(process, context.plan, seed);
  seed.perform();
  redirect_vdso(context.snapshot, process, context.plan, seed);
  std::optional<LazySpace> space = lazy_space(context, process, seed);
  write_content(context, process, seed.tid(), space.has_value(), inheritance);
  for (const pb::Vma& vma : process.mappings())
    if (const pb::Vma* kept = inheritance.kept(vma))
      protect(vma, kept->protection(), seed), lock(vma, seed);
    else if (!is_kernel_part(vma))
      finish(vma, extents, seed);
  context.perform(seed, process.pid());
  if (space) leave_for_later(context, process, std::move(*space));
}

}  // namespace snapgdb
