#include <algorithm>

#include "core/base/strings.h"
#include "core/resource/namespaces.h"
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
  for (pb::Namespace& one : namespaces_of(frozen.task_proc))
    *process.add_namespaces() = std::move(one);
  const std::string cgroups = frozen.proc.read_if_allowed("cgroup").value_or("");
  for (const std::string_view line : split(cgroups, '\n')) process.add_cgroups(std::string(line));
}

// Lines of "inside outside count", user_namespaces(7).
void add_ranges(const ProcDirectory& proc, const char* file,
                google::protobuf::RepeatedPtrField<pb::IdRange>& out) {
  const std::string text = proc.read_if_allowed(file).value_or("");
  for (const std::string_view line : split(text, '\n')) {
    const auto numbers = split_blank(line);
    if (numbers.size() != 3) continue;
    pb::IdRange& range = *out.Add();
    range.set_inside(parse_number<uint32_t>(numbers[0]).value_or(0));
    range.set_outside(parse_number<uint32_t>(numbers[1]).value_or(0));
    range.set_count(parse_number<uint32_t>(numbers[2]).value_or(0));
  }
}

}  // namespace

std::vector<pb::Namespace> namespaces_of(const ProcDirectory& proc) {
  auto kinds = proc.list("ns");
  std::ranges::sort(kinds);
  std::vector<pb::Namespace> namespaces;
  for (const std::string& kind : kinds) {
    const auto link = proc.link_if_allowed("ns/" + kind);
    if (!link) continue;  // pid_for_children has none until the first child is made
    pb::Namespace& out = namespaces.emplace_back();
    out.set_kind(kind);
    out.set_inode(inode_in(*link));
    if (kind != "user") continue;
    add_ranges(proc, "uid_map", *out.mutable_users());
    add_ranges(proc, "gid_map", *out.mutable_groups());
  }
  return namespaces;
}

uint64_t namespace_in(const Namespaces& namespaces, std::string_view kind) {
  const auto found = std::ranges::find(namespaces, kind, &pb::Namespace::kind);
  return found == namespaces.end() ? 0 : found->inode();
}

const ProcessResource kNamespaces{"namespaces", capture};

}  // namespace snapgdb
