#pragma once

#include <functional>

namespace snapgdb {

enum class HelperDescriptors { kItsOwn, kOurs };

// Does `work` in a child with our memory, as vfork(2) makes one, while the calling thread waits;
// passes on what it throws. It may change its namespaces, also the user namespace, which a thread
// may not; and it goes on to its end if we are killed. Descriptors of its own are copies of ours.
void in_helper_process(const std::function<void()>& work,
                       HelperDescriptors descriptors = HelperDescriptors::kItsOwn);

}  // namespace snapgdb
