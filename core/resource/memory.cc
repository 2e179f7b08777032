#include "core/resource/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <map>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/mapped_file.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

using From = MemoryRun::From;

// ---- The mappings, as smaps shows them ---------------------------------------------------------

struct SizeColumn {
  std::string_view key;
  void (pb::Vma::*set)(uint64_t);
};
constexpr SizeColumn kSizes[] = {
    {"Rss", &pb::Vma::set_rss},
    {"Pss", &pb::Vma::set_pss},
    {"Shared_Clean", &pb::Vma::set_shared_clean},
    {"Shared_Dirty", &pb::Vma::set_shared_dirty},
    {"Private_Clean", &pb::Vma::set_private_clean},
    {"Private_Dirty", &pb::Vma::set_private_dirty},
    {"Anonymous", &pb::Vma::set_anonymous},
    {"Swap", &pb::Vma::set_swap},
    {"Locked", &pb::Vma::set_locked},
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
  vma.set_page_size(static_cast<uint32_t>(mapping.size_of("KernelPageSize")));
  vma.set_huge(mapping.size_of("AnonHugePages") + mapping.size_of("ShmemPmdMapped") +
               mapping.size_of("FilePmdMapped"));
  for (const SizeColumn& column : kSizes) (vma.*column.set)(mapping.size_of(column.key));
  return vma;
}

// Whether what the mapping shows can change under us through another process or descriptor.
bool is_changeable(const ProcMapping& mapping) {
  return mapping.shared && mapping.has_flag("mw");  // mw: may be written (VM_MAYWRITE)
}

void capture(CaptureContext& context, const FrozenProcess& frozen, pb::Process& process) {
  process.set_address_space(context.address_spaces.of(frozen.a_task()));
  for (const ProcMapping& mapping : parse_mappings(frozen.task_proc.read("smaps"))) {
    pb::Vma& vma = *process.add_mappings() = to_record(mapping);
    if (mapping.inode == 0 || is_changeable(mapping)) continue;
    const ProcDirectory& proc = frozen.tasks.front().tid == leader_of(frozen.pid)
                                    ? frozen.proc
                                    : frozen.task_proc;  // map_files
    vma.set_file(context.files.id_for(proc, mapping));
    const bool is_program = mapping.name == process.executable() && !process.executable_file();
    if (!is_program || !vma.file()) continue;
    process.set_executable_file(vma.file());
    context.files.set_executable(vma.file());
  }
}

// ---- What is not read, and why
// -------------------------------------------------------------------

bool has_flag(const pb::Vma& vma, std::string_view flag) {
  const auto flags = split_blank(vma.flags());
  return std::ranges::find(flags, flag) != flags.end();
}

struct Exclusion {
  bool (*matches)(const pb::Vma&, const MemoryOptions&);
  const char* why;
};
constexpr Exclusion kExclusions[] = {
    {[](const pb::Vma& vma, const MemoryOptions&) {
       return vma.name() == "[vsyscall]" || vma.name().starts_with("[vvar");
     },
     "the kernel's own, not readable from outside"},
    {[](const pb::Vma& vma, const MemoryOptions&) {
       return has_flag(vma, "io") || has_flag(vma, "pf");
     },
     "memory of a device"},
    {[](const pb::Vma& vma, const MemoryOptions&) { return vma.name() == "/secretmem"; },
     "hidden from everybody but the program (memfd_secret)"},
    {[](const pb::Vma& vma, const MemoryOptions& options) {
       return has_flag(vma, "dd") && !options.include_dontdump;
     },
     "the program keeps it out of dumps (MADV_DONTDUMP)"},
};

// ---- The plan
// ------------------------------------------------------------------------------------

class Planner {
 public:
  Planner(const FrozenProcess& frozen, const FileRegistry& files, const MemoryOptions& options)
      : frozen_(frozen), files_(files), options_(options), pagemap_(frozen.task_proc) {}

  void plan(const pb::Vma& vma);
  std::vector<MemoryRun> take() { return std::move(runs_); }

 private:
  void plan_anonymous(const pb::Vma& vma);
  void plan_lasting_file(const pb::Vma& vma);
  void plan_object(const pb::Vma& vma, std::shared_ptr<const Fd> object);
  void plan_out_of_reach(const pb::Vma& vma);
  void plan_object_run(const pb::Vma& vma, const std::shared_ptr<const Fd>& object, uint64_t start,
                       uint64_t end);
  std::shared_ptr<const Fd> object_of(const pb::Vma& vma);
  void add(uint64_t start, uint64_t end, From from) { runs_.push_back({start, end - start, from}); }
  void add_missing(uint64_t start, uint64_t end, const char* why, bool refused = false) {
    runs_.push_back({.start = start,
                     .size = end - start,
                     .from = From::kMissing,
                     .why = why,
                     .refused = refused});
  }
  // Guard pages fault whoever the process is; everything else is handed to `otherwise`.
  template <typename Otherwise>
  void classify(const pb::Vma& vma, Otherwise otherwise) {
    pagemap_.classify(vma.start(), vma.end(), [&](uint64_t start, uint64_t end, PageClass what) {
      if (what == PageClass::kGuard)
        add_missing(start, end, "a guard page (MADV_GUARD_INSTALL)", true);
      else
        otherwise(start, end, what);
    });
  }

  const FrozenProcess& frozen_;
  const FileRegistry& files_;
  const MemoryOptions& options_;
  Pagemap pagemap_;
  std::map<std::pair<uint64_t, uint64_t>, std::shared_ptr<const Fd>> objects_;  // device, inode
  std::vector<MemoryRun> runs_;
};

void Planner::plan(const pb::Vma& vma) {
  for (const Exclusion& exclusion : kExclusions)
    if (exclusion.matches(vma, options_))
      return add_missing(vma.start(), vma.end(), exclusion.why, true);
  if (vma.inode() == 0) return plan_anonymous(vma);
  if (vma.file()) return plan_lasting_file(vma);
  if (auto object = object_of(vma); object->valid()) return plan_object(vma, std::move(object));
  plan_out_of_reach(vma);
}

void Planner::plan_anonymous(const pb::Vma& vma) {
  const bool filled_on_demand = has_flag(vma, "um");  // userfaultfd, missing pages
  const bool special = vma.name() == "[vdso]";        // no page of its own in the page table
  classify(vma, [&](uint64_t start, uint64_t end, PageClass what) {
    if (what != PageClass::kAbsent || special)
      add(start, end, From::kMemory);
    else if (filled_on_demand)
      add_missing(start, end, "userfaultfd had not provided it yet");
    else
      add(start, end, From::kZero);
  });
}

// Pages that the process has changed are its own; the others are the file's.
void Planner::plan_lasting_file(const pb::Vma& vma) {
  const uint64_t file_end = page_up(files_.record(vma.file()).size());
  classify(vma, [&](uint64_t start, uint64_t end, PageClass what) {
    if (what == PageClass::kAnonymous) return add(start, end, From::kMemory);
    const uint64_t offset = vma.offset() + (start - vma.start());
    const uint64_t in_file = file_end > offset ? std::min(end - start, file_end - offset) : 0;
    if (in_file) runs_.push_back({start, in_file, From::kFile, offset, vma.file()});
    if (start + in_file < end)
      add_missing(start + in_file, end, "beyond the end of the file", true);
  });
}

// Shared memory, and private views of it: what no page table maps may have content all the same, so
// its file is asked, not the page table. Reading through it leaves the program's page table alone.
void Planner::plan_object(const pb::Vma& vma, std::shared_ptr<const Fd> object) {
  classify(vma, [&](uint64_t start, uint64_t end, PageClass what) {
    if (what == PageClass::kAnonymous)
      add(start, end, From::kMemory);
    else
      plan_object_run(vma, object, start, end);
  });
}

void Planner::plan_object_run(const pb::Vma& vma, const std::shared_ptr<const Fd>& object,
                              uint64_t start, uint64_t end) {
  const uint64_t delta = vma.offset() - vma.start();  // address + delta = offset, modulo 2^64
  const uint64_t object_end = page_up(file_size(*object));
  const uint64_t known_end = std::clamp(object_end - delta, start, end);
  for_each_data_run(*object, start + delta, known_end + delta,
                    [&](uint64_t from, uint64_t to, bool has_data) {
                      runs_.push_back({.start = from - delta,
                                       .size = to - from,
                                       .from = has_data ? From::kObject : From::kZero,
                                       .offset = from,
                                       .object = object});
                    });
  if (known_end < end) add_missing(known_end, end, "beyond the end of the object", true);
}

// Without its file, a page of shared memory that this process does not map cannot be told from one
// that nobody ever touched; looking would make the kernel allocate it.
void Planner::plan_out_of_reach(const pb::Vma& vma) {
  const bool safe_to_touch = !vma.shared();
  classify(vma, [&](uint64_t start, uint64_t end, PageClass what) {
    if (what != PageClass::kAbsent || safe_to_touch)
      add(start, end, From::kMemory);
    else
      add_missing(start, end,
                  "shared memory not mapped in at that moment; reading it needs "
                  "CAP_CHECKPOINT_RESTORE");
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
    object = std::make_shared<const Fd>(open_mapped_file(frozen_.proc, mapping));
  }
  return object;
}

// ---- Carrying it out
// -------------------------------------------------------------------------------

constexpr size_t kBlock = size_t{1} << 20;  // where process_vm_readv(2) is fastest

// Reads [start, start + size) block by block with `read(address, out)`; what it does not get is
// missing, page by page.
template <typename Read>
void copy_run(const MemoryRun& run, Bytes& buffer, PageWriter& pages, Extents& extents, Read read) {
  for (uint64_t done = 0; done < run.size;) {
    const size_t want = std::min<uint64_t>(kBlock, run.size - done);
    const size_t got =
        read(run.start + done, std::span(buffer).first(want)) / kPageSize * kPageSize;
    pages.add(extents, run.start + done, std::span(buffer).first(got));
    done += got;
    if (got == want) continue;
    extents.append_missing(run.start + done, kPageSize, "the kernel refuses to read it");
    done += kPageSize;
  }
}

}  // namespace

std::vector<MemoryRun> plan_memory(const FrozenProcess& frozen, const pb::Process& process,
                                   const FileRegistry& files, const MemoryOptions& options) {
  Planner planner(frozen, files, options);
  for (const pb::Vma& vma : process.mappings()) planner.plan(vma);
  return planner.take();
}

Extents copy_memory(const std::vector<MemoryRun>& plan, const MemorySource& memory,
                    PageWriter& pages) {
  Extents extents;
  Bytes buffer(kBlock);
  const auto from_memory = [&](uint64_t address, std::span<std::byte> out) {
    return memory.read(address, out);
  };
  for (const MemoryRun& run : plan) {
    switch (run.from) {
      case From::kZero:
        extents.append({run.start, run.size, pb::SOURCE_ZERO, 0, 0});
        break;
      case From::kFile:
        extents.append({run.start, run.size, pb::SOURCE_FILE, run.offset, run.file});
        break;
      case From::kMissing:
        extents.append_missing(run.start, run.size, run.why, run.refused);
        break;
      case From::kMemory:
        copy_run(run, buffer, pages, extents, from_memory);
        break;
      case From::kObject:
        copy_run(run, buffer, pages, extents, [&](uint64_t address, std::span<std::byte> out) {
          const uint64_t offset = run.offset + (address - run.start);
          const size_t n = pread_upto(run.object->get(), out, offset, "shared memory");
          // Its last page is filled up with zeros, as the program sees it.
          std::ranges::fill(out.subspan(n), std::byte{0});
          return out.size();
        });
        break;
    }
  }
  pages.flush();
  return extents;
}

const ProcessResource kMemoryMap{"memory map", capture};

}  // namespace snapgdb
