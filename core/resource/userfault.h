#pragma once

#include "core/image/snapshot.pb.h"

namespace snapgdb {

// What a program does with userfaultfd(2) itself, and what that means for reading its memory: a
// handler that has to be asked cannot answer while it is stopped.

// Preconditions of both: the descriptors of the process, and its mappings, were captured.
bool has_userfaultfd(const pb::Process& process);
// Whether a fork(2) of it may wait until somebody has read of it (UFFD_FEATURE_EVENT_FORK).
bool may_be_told_of_forks(const pb::Process& process);

// Whether somebody is asked for pages of the mapping that are not there.
bool is_filled_on_demand(const pb::Vma& vma);
// Whether, besides, pages may be protected before they are there. Of such a page the page table
// holds a mark that looks like a page that is swapped out (UFFD_FEATURE_WP_UNPOPULATED).
bool may_hold_marks(const pb::Vma& vma);

}  // namespace snapgdb
