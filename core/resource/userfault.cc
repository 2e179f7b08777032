#include "core/resource/userfault.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>

#include <algorithm>
#include <array>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/image/extents.h"
#include "core/resource/memory.h"

namespace snapgdb {
namespace {

bool is_userfaultfd(const pb::Descriptor& descriptor) {
  return descriptor.other().what() == "anon_inode:[userfaultfd]";
}

// "API:\taa:FEATURES:ALL" of fdinfo (fs/userfaultfd.c, userfaultfd_show_fdinfo).
bool is_told_of_forks(const pb::Descriptor& descriptor) {
  const ProcFields info(descriptor.other().fdinfo());
  const auto numbers = split(info.text("API"), ':');
  const auto features = numbers.size() < 2 ? std::nullopt : parse_number<uint64_t>(numbers[1], 16);
  return is_userfaultfd(descriptor) && (!features || *features & UFFD_FEATURE_EVENT_FORK);
}

bool is_watched(const pb::Vma& vma) {
  return has_flag(vma, "um") || has_flag(vma, "uw") || has_flag(vma, "ui");
}

}  // namespace

bool has_userfaultfd(const pb::Process& process) {
  return std::ranges::any_of(process.descriptors(), is_userfaultfd);
}

bool may_be_told_of_forks(const pb::Process& process) {
  // One that another process has, to which it was sent, cannot be asked what it is told.
  if (!has_userfaultfd(process)) return std::ranges::any_of(process.mappings(), is_watched);
  return std::ranges::any_of(process.descriptors(), is_told_of_forks);
}

bool is_filled_on_demand(const pb::Vma& vma) {
  return has_flag(vma, "um");
}

bool may_hold_marks(const pb::Vma& vma) {
  return is_filled_on_demand(vma) && has_flag(vma, "uw");
}

void for_each_present(
    const ProcDirectory& proc, uint64_t start, uint64_t end,
    const std::function<void(uint64_t start, uint64_t end, bool present)>& found) {
  constexpr uint64_t kPresent = uint64_t{1} << 63;  // Documentation/admin-guide/mm/pagemap.rst
  std::array<uint64_t, 512> entries;
  const Fd pagemap = proc.open("pagemap", O_RDONLY);
  if (!pagemap.valid()) throw_errno("cannot open {}/pagemap", proc.path());
  while (start < end) {
    const auto some =
        std::span(entries).first(std::min<uint64_t>(entries.size(), (end - start) / kPageSize));
    entries.fill(0);
    pread_upto(pagemap.get(), std::as_writable_bytes(some), start / kPageSize * sizeof(uint64_t),
               "pagemap");
    for (const uint64_t entry : some) {
      found(start, start + kPageSize, entry & kPresent);
      start += kPageSize;
    }
  }
}

}  // namespace snapgdb
