#include "core/resource/memory.h"

#include <algorithm>
#include <array>
#include <map>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/device_number.h"
#include "core/linux/mapped_file.h"
#include "core/linux/pagemap.h"
#include "core/resource/resources.h"
#include "core/resource/userfault.h"

namespace snapgdb {
namespace {

using From = MemoryRun::From;
using Mappings = google::protobuf::RepeatedPtrField<pb::Vma>;

// ---- The mappings, as smaps shows them ---------------------------------------------------------

struct SizeColumn {
  MappingSize which;
  void (pb::Vma::*set)(uint64_t);
};
constexpr SizeColumn kSizes[] = {
    {MappingSize::kRss, &pb::Vma::set_rss},
    {MappingSize::kPss, &pb::Vma::set_pss},
    {MappingSize::kSharedClean, &pb::Vma::set_shared_clean},
    {MappingSize::kSharedDirty, &pb::Vma::set_shared_dirty},
    {MappingSize::kPrivateClean, &pb::Vma::set_private_clean},
    {MappingSize::kPrivateDirty, &pb::Vma::set_private_dirty},
    {MappingSize::kAnonymous, &pb::Vma::set_anonymous},
    {MappingSize::kSwap, &pb::Vma::set_swap},
    {MappingSize::kLocked, &pb::Vma::set_locked},
};

pb::Vma to_record(const ProcMapping& mapping) {
  pb::Vma vma;
  vma.set_start(mapping.start);
  vma.set_end(mapping.end);
  vma.set_protection(mapping.protection);
  vma.set_shared(mapping.shared);
  vma.set_offset(mapping.offset);
  vma.set_device_major(mapping.device_major);
  vma.set_device_minor(mapping.device_minor);
  vma.set_inode(mapping.inode);
  vma.set_name(mapping.name);
  vma.set_deleted(mapping.deleted);
  vma.set_flags(mapping.flags);
  vma.set_protection_key(mapping.protection_key);
  vma.set_page_size(static_cast<uint32_t>(mapping.size(MappingSize::kKernelPageSize)));
  vma.set_huge(mapping.size(MappingSize::kAnonHugePages) +
               mapping.size(MappingSize::kShmemPmdMapped) +
               mapping.size(MappingSize::kFilePmdMapped));
  for (const SizeColumn& column : kSizes) (vma.*column.set)(mapping.size(column.which));
  return vma;
}

// Whether what the mapping shows can change under us through another process or descriptor.
bool is_changeable(const ProcMapping& mapping) {
  return mapping.shared && mapping.has_flag("mw");  // mw: may be written (VM_MAYWRITE)
}

bool is_of_huge_pages(const pb::Vma& vma) {
  return has_flag(vma, "ht");
}

void capture(CaptureContext& context, const FrozenProcess& frozen, pb::Process& process) {
  process.set_address_space(context.address_spaces.of(frozen.a_task()));
  // What a userfaultfd has been made responsible for since then shows in flags only.
  Survey* survey = has_userfaultfd(process) ? nullptr : context.surveys.find(frozen.pid);
  for (ProcMapping& mapping : mappings_now(frozen, survey)) {
    pb::Vma& vma = *process.add_mappings() = to_record(mapping);
    if (!has_file(vma)) continue;
    if (mapping.deleted && !is_anonymous(vma)) look_behind(context, frozen.living(), mapping, vma);
    if (is_changeable(mapping)) continue;
    vma.set_file(context.files.id_for(frozen.living(), mapping));
    if (vma.file()) vma.clear_nameless();  // code: the registry has it
    const bool is_program = mapping.name == process.executable() && !process.executable_file();
    if (!is_program || !vma.file()) continue;
    process.set_executable_file(vma.file());
    context.files.set_executable(vma.file());
  }
}

// ---- What is not read, and why -----------------------------------------------------------------

constexpr const char* kUndelivered = "userfaultfd had not provided it yet";
constexpr const char* kUndeliveredOrSwapped =
    "swapped out, or userfaultfd had not provided it yet: that cannot be told apart";

struct Exclusion {
  bool (*matches)(const pb::Vma&, const MemoryOptions&);
  const char* why;
  KeptBy kept_by;
};
constexpr Exclusion kExclusions[] = {
    {[](const pb::Vma& vma, const MemoryOptions&) {
       return vma.name() == "[vsyscall]" || vma.name().starts_with("[vvar");
     },
     "the kernel's own, not readable from outside", KeptBy::kKernel},
    {[](const pb::Vma& vma, const MemoryOptions&) {
       return has_flag(vma, "io") || has_flag(vma, "pf");
     },
     "memory of a device", KeptBy::kKernel},
    {[](const pb::Vma& vma, const MemoryOptions&) { return vma.name() == "/secretmem"; },
     "hidden from everybody but the program (memfd_secret)", KeptBy::kProgram},
    {[](const pb::Vma& vma, const MemoryOptions& options) {
       return has_flag(vma, "dd") && !options.include_dontdump;
     },
     kKeptOutOfDumps.data(), KeptBy::kProgram},
};

// ---- The plan -----------------------------------------------------------------------------------

class Planner {
 public:
  Planner(const FrozenProcess& frozen, const FileRegistry& files, const MemoryOptions& options,
          const PreCopy* early)
      : frozen_(frozen),
        files_(files),
        options_(options),
        early_(early),
        pagemap_(frozen.task_proc) {}

  std::vector<MemoryRun> plan(const Mappings& mappings);

 private:
  void plan(const pb::Vma& vma);
  bool is_quickly_looked_at(const pb::Vma& vma) const;
  void plan_anonymous(const pb::Vma& vma);
  void plan_lasting_file(const pb::Vma& vma);
  void plan_object(const pb::Vma& vma, std::shared_ptr<const Fd> object);
  void plan_out_of_reach(const pb::Vma& vma);
  void plan_object_run(const pb::Vma& vma, const std::shared_ptr<const Fd>& object, uint64_t start,
                       uint64_t end);
  std::shared_ptr<const Fd> object_of(const pb::Vma& vma);
  void add(uint64_t start, uint64_t end, From from) { runs_.push_back({start, end - start, from}); }
  void add_memory(const pb::Vma& vma, uint64_t start, uint64_t end);
  void add_copied(const PageRun& run, std::vector<PageRun>& gaps);
  void add_missing(uint64_t start, uint64_t end, const char* why,
                   KeptBy kept_by = KeptBy::kNobody) {
    runs_.push_back({.start = start,
                     .size = end - start,
                     .from = From::kMissing,
                     .why = why,
                     .kept_by = kept_by});
  }
  // Guard pages fault whoever the process is; everything else is handed to `otherwise`.
  template <typename Otherwise>
  void classify(const pb::Vma& vma, Otherwise otherwise) {
    const bool has_marks = may_hold_marks(vma);
    auto how = has_file(vma) ? &Pagemap::classify : &Pagemap::classify_anonymous;
    if (early_ && early_->tracks(vma.start(), vma.end())) how = &Pagemap::classify_tracked;
    const auto add_one = [&](const PageRun& run) {
      if (run.what == PageClass::kGuard)
        add_missing(run.start, run.end, kGuardPage, KeptBy::kKernel);
      else if (run.what == PageClass::kAnonymous && has_marks)
        pagemap_.for_each_present(
            run.start, run.end, [&](uint64_t start, uint64_t end, bool present) {
              if (present)
                otherwise(start, end, run.what);
              else
                add_missing(start, end, vma.swap() ? kUndeliveredOrSwapped : kUndelivered);
            });
      else
        otherwise(run.start, run.end, run.what);
    };
    const size_t first = runs_.size();
    std::vector<PageRun> gaps;
    (pagemap_.*how)(vma.start(), vma.end(), [&](const PageRun& run) {
      if (run.unwritten && early_ && run.what != PageClass::kGuard)
        add_copied(run, gaps);
      else
        add_one(run);
    });
    // Not within the other: a page table is looked at for one at a time.
    for (const PageRun& gap : gaps) pagemap_.classify_anonymous(gap.start, gap.end, add_one);
    if (!gaps.empty())
      std::sort(runs_.begin() + static_cast<ptrdiff_t>(first), runs_.end(),
                [](const MemoryRun& a, const MemoryRun& b) { return a.start < b.start; });
  }

  const FrozenProcess& frozen_;
  const FileRegistry& files_;
  const MemoryOptions& options_;
  const PreCopy* early_;
  Pagemap pagemap_;
  std::map<std::pair<uint64_t, uint64_t>, std::shared_ptr<const Fd>> objects_;  // device, inode
  std::vector<MemoryRun> runs_;
};

// In the page table. Of a large one, less is asked.
bool Planner::is_quickly_looked_at(const pb::Vma& vma) const {
  constexpr uint64_t kFew = uint64_t{1} << 20;
  const bool is_known = !vma.flags().empty();  // of new ones, sizes are not told yet
  const bool is_tracked = early_ && early_->tracks(vma.start(), vma.end());
  const bool is_left_out = std::ranges::any_of(  // [vsyscall] is beyond what may be asked for
      kExclusions, [&](const Exclusion& exclusion) { return exclusion.matches(vma, options_); });
  return !is_tracked && !is_left_out &&
         (is_known ? vma.rss() + vma.swap() : vma.end() - vma.start()) < kFew;
}

std::vector<MemoryRun> Planner::plan(const Mappings& mappings) {
  const auto until = [&](auto vma) {  // the end of those that are looked at together with it
    uint64_t end = vma->end();
    for (; vma != mappings.end() && is_quickly_looked_at(*vma); ++vma) end = vma->end();
    return end;
  };
  uint64_t horizon = 0;
  for (auto vma = mappings.begin(); vma != mappings.end(); ++vma) {
    // A tracked one is not looked at as a whole: that is what takes long.
    if (vma->end() > horizon) {
      horizon = until(vma);
      pagemap_.look_ahead_to(horizon > vma->end() ? horizon : 0);
    }
    plan(*vma);
  }
  return std::move(runs_);
}

void Planner::plan(const pb::Vma& vma) {
  for (const Exclusion& exclusion : kExclusions)
    if (exclusion.matches(vma, options_))
      return add_missing(vma.start(), vma.end(), exclusion.why, exclusion.kept_by);
  if (is_anonymous(vma)) return plan_anonymous(vma);
  if (vma.file()) return plan_lasting_file(vma);
  if (auto object = object_of(vma); object->valid()) return plan_object(vma, std::move(object));
  plan_out_of_reach(vma);
}

void Planner::add_memory(const pb::Vma& vma, uint64_t start, uint64_t end) {
  const bool is_known = !vma.flags().empty();  // of new ones, sizes are not told yet
  runs_.push_back({.start = start,
                   .size = end - start,
                   .from = From::kMemory,
                   .in_twin = !vma.shared() && !has_flag(vma, "dc") && !has_flag(vma, "wf"),
                   .way = is_known
                              ? way_to_read(has_file(vma), vma.shared_clean(), vma.shared_dirty())
                              : RemoteMemory::Way::kGently});
}

// What was copied earlier holds; what was not (it was being written then, or is a guard page, which
// counts as unwritten like any other) is looked at now.
void Planner::add_copied(const PageRun& run, std::vector<PageRun>& gaps) {
  uint64_t done = run.start;
  for (const Extent& extent : early_->copied().overlapping(run.start, run.end)) {
    if (extent.source == pb::SOURCE_MISSING) continue;
    const uint64_t start = std::max(extent.start, run.start), end = std::min(extent.end(), run.end);
    if (done < start) gaps.push_back({done, start});
    if (extent.source == pb::SOURCE_ZERO)
      add(start, end, From::kZero);
    else
      runs_.push_back({.start = start,
                       .size = end - start,
                       .from = From::kCopied,
                       .offset = extent.where + (start - extent.start) / kPageSize});
    done = end;
  }
  if (done < run.end) gaps.push_back({done, run.end});
}

void Planner::plan_anonymous(const pb::Vma& vma) {
  const bool filled_on_demand = is_filled_on_demand(vma);
  const bool special = vma.name() == "[vdso]";  // no page of its own in the page table
  classify(vma, [&](uint64_t start, uint64_t end, PageClass what) {
    if (what == PageClass::kZero)
      add(start, end, From::kZero);
    else if (what != PageClass::kAbsent || special)
      add_memory(vma, start, end);
    else if (filled_on_demand)
      add_missing(start, end, kUndelivered);
    else
      add(start, end, From::kZero);
  });
}

// Pages that the process has changed are its own; the others are the file's.
void Planner::plan_lasting_file(const pb::Vma& vma) {
  const uint64_t file_end = page_up(files_.record(vma.file()).size());
  classify(vma, [&](uint64_t start, uint64_t end, PageClass what) {
    if (what == PageClass::kAnonymous) return add_memory(vma, start, end);
    const uint64_t offset = vma.offset() + (start - vma.start());
    const uint64_t in_file = file_end > offset ? std::min(end - start, file_end - offset) : 0;
    if (in_file) runs_.push_back({start, in_file, From::kFile, offset, vma.file()});
    if (start + in_file < end)
      add_missing(start + in_file, end, "beyond the end of the file", KeptBy::kKernel);
  });
}

// Shared memory, and private views of it: what no page table maps may have content all the same, so
// its file is asked, not the page table. Reading through it leaves the program's page table alone.
void Planner::plan_object(const pb::Vma& vma, std::shared_ptr<const Fd> object) {
  // hugetlbfs does not tell what is a hole in a file.
  const bool holes_are_unknown = is_filled_on_demand(vma) && is_of_huge_pages(vma);
  classify(vma, [&](uint64_t start, uint64_t end, PageClass what) {
    if (what == PageClass::kAnonymous && !vma.shared())
      add_memory(vma, start, end);
    else if (what == PageClass::kAbsent && holes_are_unknown)
      add_missing(start, end, kUndelivered);
    else
      plan_object_run(vma, object, start, end);
  });
}

void Planner::plan_object_run(const pb::Vma& vma, const std::shared_ptr<const Fd>& object,
                              uint64_t start, uint64_t end) {
  const bool filled_on_demand = is_filled_on_demand(vma);
  const uint64_t delta = vma.offset() - vma.start();  // address + delta = offset, modulo 2^64
  const uint64_t object_end = page_up(file_size(*object));
  const uint64_t known_end = std::clamp(object_end - delta, start, end);
  for_each_data_run(*object, start + delta, known_end + delta,
                    [&](uint64_t from, uint64_t to, bool has_data) {
                      if (!has_data && filled_on_demand)
                        return add_missing(from - delta, to - delta, kUndelivered);
                      runs_.push_back({.start = from - delta,
                                       .size = to - from,
                                       .from = has_data ? From::kObject : From::kZero,
                                       .offset = from,
                                       .object = object});
                    });
  if (known_end < end) add_missing(known_end, end, "beyond the end of the object", KeptBy::kKernel);
}

// Without its file, a page of shared memory that this process does not map cannot be told from one
// that nobody ever touched, but by the process itself; looking would make the kernel allocate it,
// or ask the program for it. A private view of an ordinary file is looked at all the same: that
// costs page cache at most.
void Planner::plan_out_of_reach(const pb::Vma& vma) {
  const bool fills_itself = !is_filled_on_demand(vma) && !is_of_huge_pages(vma);
  const bool safe_to_touch = !vma.shared() && fills_itself;
  classify(vma, [&](uint64_t start, uint64_t end, PageClass what) {
    const bool present =
        what == PageClass::kFile || (what == PageClass::kAnonymous && !vma.shared());
    if (present || safe_to_touch)
      add_memory(vma, start, end);
    else if (fills_itself)
      add(start, end, From::kUntold);
    else
      add_missing(start, end, kOutOfReach);
  });
}

std::shared_ptr<const Fd> Planner::object_of(const pb::Vma& vma) {
  const uint64_t device = uint64_t{vma.device_major()} << 32 | vma.device_minor();
  auto& object = objects_[{device, vma.inode()}];
  if (!object) {
    ProcMapping mapping;
    mapping.start = vma.start();
    mapping.end = vma.end();
    mapping.device_major = vma.device_major();
    mapping.device_minor = vma.device_minor();
    mapping.inode = vma.inode();
    mapping.name = vma.name();
    object = std::make_shared<const Fd>(open_mapped_file(frozen_.living(), mapping));
  }
  return object;
}

bool lies_in(const MemoryRun& run, const pb::Vma& vma) {
  return vma.start() <= run.start && run.start < vma.end();
}

}  // namespace

bool has_file(const pb::Vma& vma) {
  return vma.inode() != 0 || vma.shared();
}

bool is_anonymous(const pb::Vma& vma) {
  return !has_file(vma) || (!vma.shared() && is_of_huge_pages(vma) && vma.deleted() &&
                            vma.name() == "/anon_hugepage");
}

dev_t device_of(const pb::Vma& vma) {
  return make_device(vma.device_major(), vma.device_minor());
}

bool has_flag(const pb::Vma& vma, std::string_view flag) {
  return has_word(vma.flags(), flag);
}

std::vector<MemoryRun> plan_memory(const FrozenProcess& frozen, const pb::Process& process,
                                   const FileRegistry& files, const MemoryOptions& options,
                                   const PreCopy* early) {
  return Planner(frozen, files, options, early).plan(process.mappings());
}

void settle_mappings(const ProcDirectory& proc, pb::Process& process, std::vector<MemoryRun>& plan,
                     const MemoryOptions& options) {
  const auto is_new = [](const pb::Vma& vma) { return vma.flags().empty(); };
  if (std::ranges::none_of(process.mappings(), is_new)) return;
  std::map<uint64_t, ProcMapping> now;
  for (ProcMapping& mapping : parse_mappings(proc.read_if_allowed("smaps").value_or("")))
    now.emplace(mapping.start, std::move(mapping));
  for (pb::Vma& vma : *process.mutable_mappings()) {
    const auto found = now.find(vma.start());
    if (!is_new(vma) || found == now.end()) continue;
    pb::Vma settled = to_record(found->second);
    settled.set_end(vma.end());
    settled.set_file(vma.file());
    if (settled.protection() != vma.protection() || settled.name() != vma.name()) continue;
    vma = settled;
    for (const Exclusion& exclusion : kExclusions)
      if (exclusion.matches(vma, options))
        for (MemoryRun& run : plan)
          if (lies_in(run, vma))
            run = {.start = run.start,
                   .size = run.size,
                   .from = From::kMissing,
                   .why = exclusion.why,
                   .kept_by = exclusion.kept_by};
  }
}

const ProcessResource kMemoryMap{"memory map", capture};

}  // namespace snapgdb
