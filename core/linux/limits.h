#pragma once

namespace snapgdb {

// As many descriptors as this process may have (RLIMIT_NOFILE): the soft limit is for select(2).
void allow_all_descriptors();

}  // namespace snapgdb
