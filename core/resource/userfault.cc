#include "core/resource/userfault.h"

#include <linux/userfaultfd.h>

#include <algorithm>

#include "core/base/strings.h"
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

}  // namespace snapgdb
