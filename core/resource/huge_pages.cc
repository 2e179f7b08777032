// Pages of the machine's pool of huge ones (hugetlb), which are there or not.

#include <fcntl.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/resource/memory.h"
#include "core/resource/restorer.h"

namespace snapgdb {
namespace {

// Where there is content, in units of huge pages.
uint64_t pages_with_content(const Extents& extents, uint64_t start, uint64_t end, uint64_t size) {
  uint64_t pages = 0, uncounted = 0;
  for (const Extent& extent : extents.overlapping(start, end)) {
    if (extent.source != pb::SOURCE_STORED) continue;
    const uint64_t first = std::max(std::max(extent.start, start) / size, uncounted);
    uncounted = (std::min(extent.end(), end) - 1) / size + 1;
    pages += uncounted - std::min(first, uncounted);
  }
  return pages;
}

// Mapping reserves pages, unless the program did not want it to (MAP_NORESERVE).
uint64_t pages_needed(const Extents& extents, const pb::Vma& vma) {
  const uint64_t size = vma.page_size();
  return has_flag(vma, "nr") ? pages_with_content(extents, vma.start(), vma.end(), size)
                             : (vma.end() - vma.start()) / size;
}

// By their size.
using Pages = std::map<uint64_t, uint64_t>;

// Of private mappings each, of shared ones once for the file that they show.
Pages pages_needed(const Snapshot& snapshot) {
  Pages needed;
  std::map<uint32_t, uint64_t> of_files;
  std::set<uint32_t> spaces;
  for (const pb::FileRecord& file : snapshot.files())
    if (file.embedded() && file.huge_page_size())
      of_files[file.id()] = pages_with_content(Extents::from_record(file.content()), 0,
                                               page_up(file.size()), file.huge_page_size());
  std::set<uint32_t> used;
  for (const pb::Process& process : snapshot.processes()) {
    for (const pb::Descriptor& descriptor : process.descriptors())
      used.insert(descriptor.nameless());
    if (!process.address_space() || !spaces.insert(process.address_space()).second) continue;
    for (const pb::Vma& vma : process.mappings()) {
      if (!has_flag(vma, "ht") || vma.page_size() == 0) continue;
      const uint64_t pages = pages_needed(snapshot.extents(process), vma);
      used.insert(vma.nameless());
      if (!vma.shared())
        needed[vma.page_size()] += pages;
      else if (const auto file = of_files.find(vma.nameless()); file != of_files.end())
        file->second = std::max(file->second, pages);
    }
  }
  for (const auto& [id, pages] : of_files)
    if (used.contains(id)) needed[snapshot.file(id)->huge_page_size()] += pages;
  return needed;
}

std::string pool_of(uint64_t size) {
  return fmt::format("/sys/kernel/mm/hugepages/hugepages-{}kB", size / 1024);
}

uint64_t number_in(const std::string& path) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return 0;  // no pages of that size
  const std::string text = read_whole(file.get(), path);
  return parse_number<uint64_t>(trim(text)).value_or(0);
}

// What is free and promised to nobody, and what may be made when it is asked for.
uint64_t pages_available(uint64_t size) {
  const auto number = [pool = pool_of(size)](const char* name) {
    return number_in(pool + "/" + name);
  };
  const uint64_t more = number("nr_overcommit_hugepages"), made = number("surplus_hugepages");
  return number("free_hugepages") - number("resv_hugepages") + (more > made ? more - made : 0);
}

}  // namespace

void check_huge_pages(const Snapshot& snapshot, RestorePlan& plan) {
  for (const auto& [size, needed] : pages_needed(snapshot)) {
    const uint64_t available = pages_available(size);
    if (needed > available)
      plan.obstacles.push_back(
          {0, fmt::format("huge pages of {}", human_size(size)),
           fmt::format("the tree needs {}, of which {} are free", needed, available),
           fmt::format("as root: echo N > {}/nr_hugepages, with N larger by {}", pool_of(size),
                       needed - available)});
  }
}

}  // namespace snapgdb
