#include <algorithm>

#include "core/base/strings.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

// "mnt:[4026531841]"
uint64_t inode_in(std::string_view link) {
  const size_t open = link.find('['), close = link.find(']');
  if (open == std::string_view::npos || close == std::string_view::npos) return 0;
  return parse_number<uint64_t>(link.substr(open + 1, close - open - 1)).value_or(0);
}

void capture(CaptureContext&, const FrozenProcess& frozen, pb::Process& process) {
  // Through a living task: a leader that is a zombie has them for root only.
  auto kinds = frozen.task_proc.list("ns");
  std::ranges::sort(kinds);
  for (const std::string& kind : kinds) {
    const auto link = frozen.task_proc.link_if_allowed("ns/" + kind);
    if (!link) continue;  // pid_for_children has none until the first child is made
    pb::Namespace& out = *process.add_namespaces();
    out.set_kind(kind);
    out.set_inode(inode_in(*link));
  }
  const std::string cgroups = frozen.proc.read_if_allowed("cgroup").value_or("");
  for (const std::string_view line : split(cgroups, '\n')) process.add_cgroups(std::string(line));
}

}  // namespace

const ProcessResource kNamespaces{"namespaces", capture};

}  // namespace snapgdb
