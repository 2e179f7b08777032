#include "core/inspect/module_map.h"

#include <sys/mman.h>

#include <algorithm>
#include <map>

#include "core/base/error.h"

namespace snapgdb {
namespace {

// Two pages today; the kernel has no limit, so this only guards against a forged memory map.
constexpr uint64_t kMaxVdsoSize = 1 << 20;
// How many mappings of one file take part in the vote on its bias: a loaded module has up to six.
constexpr size_t kMaxVoters = 64;
// How often one file can be loaded; glibc's dlmopen stops at 16.
constexpr size_t kMaxModulesPerFile = 64;

using Mappings = std::vector<const pb::Vma*>;

// The bias under which `vma` is the place of `segment`, if it can be that at all: the mapping shows
// only pages of the file that the segment has.
std::optional<uint64_t> bias_if(const pb::Vma& vma, const ElfSegment& segment) {
  const uint64_t first = page_down(segment.offset);
  const uint64_t last = page_up(segment.offset + segment.file_size);
  const uint64_t size = vma.end() - vma.start();
  if (vma.offset() < first || vma.offset() > last || size > last - vma.offset())
    return std::nullopt;
  const uint64_t address_of_first = segment.address - (segment.offset - first);
  const uint64_t bias = vma.start() - (vma.offset() - first) - address_of_first;
  if (bias % kPageSize != 0) return std::nullopt;  // a segment no kernel would load
  return bias;
}

bool fits(const pb::Vma& vma, const ElfFile& elf, uint64_t bias) {
  return std::ranges::any_of(
      elf.segments(), [&](const ElfSegment& segment) { return bias_if(vma, segment) == bias; });
}

// One page of a file can belong to two segments, so a mapping alone may leave the choice between
// several biases: that which places most of the mappings wins, then that of the first segment.
std::optional<uint64_t> elect_bias(const Mappings& mappings, const ElfFile& elf) {
  std::optional<uint64_t> best;
  std::ptrdiff_t most = 0;
  for (const ElfSegment& segment : elf.segments()) {
    const auto bias = bias_if(*mappings.front(), segment);
    if (!bias || (elf.fixed_address() && *bias != 0)) continue;
    const auto voters = std::span(mappings).first(std::min(mappings.size(), kMaxVoters));
    const auto votes =
        std::ranges::count_if(voters, [&](const pb::Vma* vma) { return fits(*vma, elf, *bias); });
    if (votes > most) {
      best = bias;
      most = votes;
    }
  }
  return best;
}

// Takes the mappings of the lowest module made of `mappings` out of them. A file can be loaded
// several times (dlmopen), or be mapped as mere data, which yields no module.
std::optional<Module> take_module(Mappings& mappings, ElfFile& elf) {
  const pb::Vma& lowest = *mappings.front();
  const auto bias = elect_bias(mappings, elf);
  if (!bias) {
    mappings.erase(mappings.begin());
    return std::nullopt;
  }
  std::erase_if(mappings, [&](const pb::Vma* vma) { return fits(*vma, elf, *bias); });
  Module module{.start = lowest.start(), .bias = *bias, .elf = &elf};
  module.end = page_up(elf.end_address() + *bias);
  if (module.end <= module.start) return std::nullopt;  // wraps around
  return module;
}

std::vector<Module> modules_of_files(const Snapshot& snapshot, const pb::Process& process,
                                     ElfFiles& files) {
  std::map<uint32_t, Mappings> by_file;
  // What dynamic linkers leave inaccessible between segments is no place of a segment.
  for (const pb::Vma& vma : process.mappings())
    if (vma.file() && vma.protection() != PROT_NONE) by_file[vma.file()].push_back(&vma);

  std::vector<Module> modules;
  for (auto& [id, mappings] : by_file) {
    ElfFile* elf = files.file(id);
    if (!elf) continue;
    const pb::FileRecord* file = snapshot.file(id);
    const pb::FileRecord* debug = snapshot.debug_file(file->build_id());
    for (size_t tries = 0; !mappings.empty() && tries < kMaxModulesPerFile; ++tries) {
      const std::string path = mappings.front()->name();
      auto module = take_module(mappings, *elf);
      if (!module) continue;
      module->path = path;
      module->file = file;
      module->debug = debug ? files.file(debug->id()) : nullptr;
      modules.push_back(std::move(*module));
    }
  }
  return modules;
}

// The bytes of a mapping that no file has, or "" where any of them is missing.
std::string memory_of(const Snapshot& snapshot, const pb::Process& process, const pb::Vma& vma) {
  const uint64_t size = vma.end() - vma.start();
  if (size > kMaxVdsoSize) return "";
  std::string bytes(size, '\0');
  try {
    const auto out = std::as_writable_bytes(std::span(bytes));
    return snapshot.read_memory(process, vma.start(), out) == size ? bytes : "";
  } catch (const Error&) {  // a damaged page: as good as not captured
    return "";
  }
}

std::optional<Module> vdso(const Snapshot& snapshot, const pb::Process& process, ElfFiles& files) {
  const auto vma = std::ranges::find(process.mappings(), "[vdso]", &pb::Vma::name);
  if (vma == process.mappings().end()) return std::nullopt;
  ElfFile* elf = files.in_memory(memory_of(snapshot, process, *vma));
  if (!elf) return std::nullopt;
  return Module{.start = vma->start(),
                .end = vma->end(),
                .bias = vma->start() - page_down(elf->segments().front().address),
                .path = "[vdso]",
                .elf = elf};
}

}  // namespace

ModuleMap::ModuleMap(const Snapshot& snapshot, const pb::Process& process, ElfFiles& files)
    : modules_(modules_of_files(snapshot, process, files)) {
  if (auto module = vdso(snapshot, process, files)) modules_.push_back(std::move(*module));
  std::ranges::sort(modules_, {}, &Module::start);
  for (size_t i = 1; i < modules_.size(); ++i)
    modules_[i - 1].end = std::min(modules_[i - 1].end, modules_[i].start);
}

const Module* ModuleMap::find(uint64_t address) const {
  const auto after = std::ranges::upper_bound(modules_, address, {}, &Module::start);
  if (after == modules_.begin()) return nullptr;
  const Module& candidate = *std::prev(after);
  return candidate.contains(address) ? &candidate : nullptr;
}

}  // namespace snapgdb
