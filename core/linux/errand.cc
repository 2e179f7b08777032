#include "core/linux/errand.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <ranges>

namespace snapgdb {

bool Errand::see_to_end() {
  const auto deadline = std::chrono::steady_clock::now() + kDetourPatience;
  const auto has_ended = [&](Tracee& task) {
    while (!task.status().gone() && std::chrono::steady_clock::now() < deadline) {
      if (task.is_stopped()) task.resume_if_alive(0);
      constexpr std::chrono::milliseconds kLook{100};
      task.wait_stop(kLook);
    }
    return task.status().gone();
  };
  // The last one is waited for by the one before it.
  const bool is_over =
      std::ranges::count_if(tasks_ | std::views::reverse, std::not_fn(has_ended)) == 0;
  if (!is_over) detour_.leave_scratch();
  tasks_.clear();
  return is_over;
}

}  // namespace snapgdb
