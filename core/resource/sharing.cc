#include "core/resource/sharing.h"

#include <algorithm>
#include <ranges>

namespace snapgdb {
namespace {

// The one from which all that share with it have it.
const pb::Process& origin_of(const Snapshot& snapshot, const pb::Process& process, Shared what) {
  const pb::Process* origin = &process;
  while (shares_with_parent(snapshot, *origin, what)) origin = snapshot.process(origin->parent());
  return *origin;
}

}  // namespace

bool shares_with_parent(const Snapshot& snapshot, const pb::Process& process, Shared what) {
  const pb::Process* parent = snapshot.process(process.parent());
  return parent && parent != &process && (process.*what)() != 0 &&
         (parent->*what)() == (process.*what)();
}

bool is_first_to_share(const Snapshot& snapshot, const pb::Process& process, Shared what) {
  return !shares_with_parent(snapshot, process, what);
}

bool is_last_to_share(const Snapshot& snapshot, const pb::Process& process, Shared what) {
  const pb::Process& origin = origin_of(snapshot, process, what);
  const auto shares = [&](const pb::Process& other) {
    return (other.*what)() == (process.*what)() && &origin_of(snapshot, other, what) == &origin;
  };
  for (const pb::Process& other : snapshot.processes() | std::views::reverse)
    if (shares(other)) return &other == &process;
  return true;
}

}  // namespace snapgdb
