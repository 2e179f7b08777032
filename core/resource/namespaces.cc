// Namespaces: which there are, who is in them, and how they are made again. What is in those of
// mounts and networks: mounts.cc, network.cc.

#include "core/resource/namespaces.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <set>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/namespaces.h"
#include "core/resource/cgroups.h"
#include "core/resource/mounts.h"
#include "core/resource/network.h"
#include "core/resource/resources.h"
#include "core/resource/spaces.h"

namespace snapgdb {
namespace {

// Entries of /proc/PID/ns, the same for every process. (Listing them takes as long as reading
// three.)
const std::vector<std::string>& kinds() {
  static const std::vector<std::string> kKinds = [] {
    auto names = ProcDirectory::of(Pid{::getpid()}).list("ns");
    std::ranges::sort(names);
    return names;
  }();
  return kKinds;
}

// "mnt:[4026531841]"
uint64_t inode_in(std::string_view link) {
  const size_t open = link.find('['), close = link.find(']');
  if (open == std::string_view::npos || close == std::string_view::npos) return 0;
  return parse_number<uint64_t>(link.substr(open + 1, close - open - 1)).value_or(0);
}

void capture(CaptureContext& context, const FrozenProcess& frozen, pb::Process& process) {
  // Through a living task: a leader that is a zombie has them for root only.
  for (pb::Namespace& one : namespaces_of(frozen.task_proc, context.user_namespaces))
    *process.add_namespaces() = std::move(one);
  const std::string cgroups = frozen.living().read_if_allowed("cgroup").value_or("");
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

bool is_setgroups_denied(const ProcDirectory& proc) {
  return trim(proc.read_if_allowed("setgroups").value_or("")) == "deny";
}

using Ranges = google::protobuf::RepeatedPtrField<pb::IdRange>;

uint32_t outside(const Ranges& ranges, uint32_t inside) {
  for (const pb::IdRange& range : ranges)
    if (inside >= range.inside() && inside - range.inside() < range.count())
      return range.outside() + (inside - range.inside());
  return UserNumbers::kNone;
}

}  // namespace

pb::Namespace UserNamespaces::known(uint64_t inode, const std::function<pb::Namespace()>& read) {
  const std::lock_guard lock(mutex_);
  const auto found = known_.find(inode);
  return found != known_.end() ? found->second : known_.emplace(inode, read()).first->second;
}

std::vector<pb::Namespace> namespaces_of(const ProcDirectory& proc, UserNamespaces& users) {
  std::vector<pb::Namespace> namespaces;
  for (const std::string& kind : kinds()) {
    const auto link = proc.link_if_allowed("ns/" + kind);
    if (!link) continue;  // pid_for_children has none until the first child is made
    pb::Namespace one;
    one.set_kind(kind);
    one.set_inode(inode_in(*link));
    const auto with_numbers = [&] {
      add_ranges(proc, "uid_map", *one.mutable_users());
      add_ranges(proc, "gid_map", *one.mutable_groups());
      return one;
    };
    namespaces.push_back(kind == "user" ? users.known(one.inode(), with_numbers) : one);
  }
  return namespaces;
}

uint64_t namespace_in(const Namespaces& namespaces, std::string_view kind) {
  const auto found = std::ranges::find(namespaces, kind, &pb::Namespace::kind);
  return found == namespaces.end() ? 0 : found->inode();
}

const ProcessResource kNamespaces{"namespaces", capture};

// ---- Those of the tree --------------------------------------------------------------------------

namespace {

// Each namespace that is met and is not ours, once.
class Spaces {
 public:
  Spaces(CaptureContext& context, const pb::SnapshotRecord& record) : context_(context) {
    for (const pb::Namespace& one : record.namespaces()) outside_.insert(one.inode());
  }

  void add(const FrozenProcess& frozen, const pb::Namespace& one) {
    const bool is_of_children = one.kind().ends_with("_for_children");
    if (is_of_children || outside_.contains(one.inode()) || met_.contains(one.inode())) return;
    try {
      Fd held = frozen.task_proc.open("ns/" + one.kind(), O_RDONLY | O_CLOEXEC);
      if (!held.valid()) throw_errno("cannot open it");
      add_content(frozen, held, one, begin(one.kind(), held));
      if (one.kind() == "net") context_.networks[one.inode()] = {frozen.pid, std::move(held)};
    } catch (const Error& error) {
      context_.lacks(frozen.pid, {}, fmt::format("{} namespace", one.kind()), error.what());
    }
  }

  // Owners before what they own, parents before children.
  std::vector<pb::NamespaceState> take() {
    while (!uninhabited_.empty()) add_maps_from_inside(uninhabited_.begin()->first);
    std::vector<pb::NamespaceState> states;
    for (auto& [inode, state] : met_) states.push_back(std::move(state));
    std::map<uint64_t, uint64_t> parents;
    for (const pb::NamespaceState& state : states) parents[state.inode()] = state.parent();
    const auto depth = [&](const pb::NamespaceState& state) {
      size_t above = 0;
      for (uint64_t at = state.parent(); parents.contains(at); at = parents.at(at)) ++above;
      return std::pair(state.kind() != "user", above);
    };
    std::ranges::stable_sort(states, {}, depth);
    return states;
  }

 private:
  pb::NamespaceState& begin(const std::string& kind, const Fd& held) {
    const uint64_t inode = inode_of(held);
    pb::NamespaceState& state = met_[inode];
    state.set_kind(kind);
    state.set_inode(inode);
    if (kind == "user" || kind == "pid") state.set_parent(inode_of(parent_of(held)));
    if (kind == "user") {
      if (const auto user = owner_user_of(held)) state.set_owner_user(*user);
      add_user(parent_of(held));
    } else {
      const Fd owner = owner_of(held);
      state.set_owner(inode_of(owner));
      add_user(owner);
    }
    return state;
  }

  // One that perhaps nobody is in, but belongs to what somebody is in.
  void add_user(const Fd& space) {
    const uint64_t inode = inode_of(space);
    if (!inode || outside_.contains(inode) || met_.contains(inode)) return;
    begin("user", space);
    uninhabited_.emplace(inode, Fd(::fcntl(space.get(), F_DUPFD_CLOEXEC, 0)));
  }

  // To who is inside, the kernel shows the numbers of the namespace above: that comes first.
  void add_maps_from_inside(uint64_t inode) {
    const auto held = uninhabited_.extract(inode);
    pb::NamespaceState& state = met_.at(inode);
    if (uninhabited_.contains(state.parent())) add_maps_from_inside(state.parent());
    try {
      in_namespace(held.mapped(), "user", [&] {
        const ProcDirectory self = ProcDirectory::of(Pid{::getpid()});
        add_ranges(self, "uid_map", *state.mutable_users());
        add_ranges(self, "gid_map", *state.mutable_groups());
        state.set_setgroups_denied(is_setgroups_denied(self));
      });
    } catch (const Error& error) {
      return context_.lacks(context_.tree.processes.front().pid, {},
                            "users of a namespace that nobody is in", error.what());
    }
    const auto above = met_.find(state.parent());
    if (above == met_.end()) return;  // ours
    for (pb::IdRange& range : *state.mutable_users())
      range.set_outside(outside(above->second.users(), range.outside()));
    for (pb::IdRange& range : *state.mutable_groups())
      range.set_outside(outside(above->second.groups(), range.outside()));
  }

  void add_content(const FrozenProcess& frozen, const Fd& held, const pb::Namespace& one,
                   pb::NamespaceState& state) {
    if (one.kind() == "user") {
      *state.mutable_users() = one.users();
      *state.mutable_groups() = one.groups();
      state.set_setgroups_denied(is_setgroups_denied(frozen.task_proc));
    } else if (one.kind() == "uts") {
      HostNames names;
      in_namespace(held, "uts", [&] { names = host_names(); });
      state.set_host_name(names.host);
      state.set_domain_name(names.domain);
    } else if (one.kind() == "time") {
      state.set_monotonic_offset_ns(clock_offset(frozen.a_task(), CLOCK_MONOTONIC));
      state.set_boottime_offset_ns(clock_offset(frozen.a_task(), CLOCK_BOOTTIME));
    } else if (one.kind() == "ipc") {
      IpcSettings settings;
      in_namespace(held, "ipc", [&] { settings = ipc_settings(); });
      for (const auto& [name, value] : settings) {
        pb::Network::Setting& setting = *state.add_settings();
        setting.set_name(name), setting.set_value(value);
      }
    } else if (one.kind() == "cgroup") {
      std::string inside;
      in_namespace(held, "cgroup", [&] { inside = frozen.living().read("cgroup"); });
      add_cgroup_roots(frozen.living().read("cgroup"), inside, state);
    } else if (one.kind() == "mnt") {
      capture_mounts(context_, frozen, state);
    } else if (one.kind() == "net") {
      capture_network(context_, frozen.pid, held, *state.mutable_network());
    }
  }

  CaptureContext& context_;
  std::set<uint64_t> outside_;
  std::map<uint64_t, pb::NamespaceState> met_;  // by inode
  std::map<uint64_t, Fd> uninhabited_;          // of users, by inode
};

}  // namespace

// User namespaces first, with what they hold: they are met again as owners of others.
void capture_namespaces(CaptureContext& context, const std::vector<pb::Process>& processes,
                        pb::SnapshotRecord& record) {
  Spaces spaces(context, record);
  for (const bool users : {true, false})
    for (size_t i = 0; i < processes.size(); ++i)
      for (const pb::Namespace& one : processes[i].namespaces())
        if ((one.kind() == "user") == users) spaces.add(context.tree.processes[i], one);
  for (pb::NamespaceState& state : spaces.take()) *record.add_spaces() = std::move(state);
  pair_networks(context, record);
}

void finish_namespaces(CaptureContext& context, pb::SnapshotRecord& record) {
  for (pb::NamespaceState& state : *record.mutable_spaces()) {
    const auto found = context.networks.find(state.inode());
    if (found == context.networks.end()) continue;
    const auto& [member, held] = found->second;
    try {
      const std::string why = capture_network_settings(held, *state.mutable_network());
      if (!why.empty()) context.lacks(member, {}, "filters of packets (nftables)", why);
    } catch (const Error& error) {
      context.lacks(member, {}, "settings of the net namespace", error.what());
    }
  }
}

const pb::NamespaceState* own_namespace(const Snapshot& snapshot, const pb::Process& process,
                                        std::string_view kind) {
  const uint64_t inode = namespace_in(process.namespaces(), kind);
  const auto& spaces = snapshot.record().spaces();
  const auto found = std::ranges::find(spaces, inode, &pb::NamespaceState::inode);
  return inode == 0 || found == spaces.end() ? nullptr : &*found;
}

int64_t tree_clock(const Snapshot& snapshot, int clock) {
  return clock_in(snapshot, own_namespace(snapshot, snapshot.root(), "time"), clock);
}

int64_t clock_in(const Snapshot& snapshot, const pb::NamespaceState* space, int clock) {
  const pb::SnapshotRecord& record = snapshot.record();
  const bool boottime = clock == CLOCK_BOOTTIME;
  const int64_t ours = boottime ? record.boottime_ns() : record.monotonic_ns();
  if (!space) return ours;
  return ours + (boottime ? space->boottime_offset_ns() - record.boottime_offset_ns()
                          : space->monotonic_offset_ns() - record.monotonic_offset_ns());
}

// ---- The plan of a restore ----------------------------------------------------------------------

namespace {

uint32_t inside(const google::protobuf::RepeatedPtrField<pb::IdRange>& ranges, uint32_t outside) {
  for (const pb::IdRange& range : ranges)
    if (outside - range.outside() < range.count() && outside >= range.outside())
      return range.inside() + (outside - range.outside());
  return UserNumbers::kNone;
}

// Whether we may give all of these, user_namespaces(7).
bool are_ours_to_give(const google::protobuf::RepeatedPtrField<pb::IdRange>& ranges,
                      const char* of_ours) {
  google::protobuf::RepeatedPtrField<pb::IdRange> ours;
  add_ranges(ProcDirectory::of(Pid{::getpid()}), of_ours, ours);
  return std::ranges::all_of(ranges, [&](const pb::IdRange& wanted) {
    return std::ranges::any_of(ours, [&](const pb::IdRange& range) {
      return wanted.outside() >= range.inside() && wanted.outside() + uint64_t{wanted.count()} <=
                                                       range.inside() + uint64_t{range.count()};
    });
  });
}

bool was_apart(const Snapshot& snapshot, std::string_view kind) {
  const uint64_t theirs = namespace_in(snapshot.root().namespaces(), kind),
                 ours = namespace_in(snapshot.record().namespaces(), kind);
  return theirs && ours && theirs != ours;
}

// As whom the tree lives: an ordinary user is one user only, that of the tree if it is isolated.
void plan_user(const Snapshot& snapshot, RestorePlan& plan) {
  const pb::Process& root = snapshot.root();
  plan.outside_user = ::geteuid(), plan.outside_group = ::getegid();
  const bool has_any = !root.threads().empty();
  if ((::geteuid() == 0 ? plan.own_user : plan.isolated) && has_any) {
    plan.outside_user = root.threads(0).credentials().euid();
    plan.outside_group = root.threads(0).credentials().egid();
  }
  plan.user = plan.numbers.user(plan.outside_user);
  plan.group = plan.numbers.group(plan.outside_group);
}

constexpr const char* kOutsideNumbers =
    "the tree had a user namespace of its own: in its new one, users have the numbers that they "
    "had "
    "outside";

void plan_user_numbers(const Snapshot& snapshot, bool has_spaces, RestorePlan& plan) {
  // Who is not root makes others only in one of these.
  const bool needs_rights =
      plan.names || plan.mounts || plan.network || plan.own_cgroups || has_spaces;
  plan.own_user = was_apart(snapshot, "user") || (needs_rights && ::geteuid() != 0);
  const pb::NamespaceState* space = own_namespace(snapshot, snapshot.root(), "user");
  if (!was_apart(snapshot, "user")) return;
  const bool has_numbers = space && !space->users().empty() && !space->groups().empty();
  const bool may =
      ::geteuid() != 0 || (has_numbers && are_ours_to_give(space->users(), "uid_map") &&
                           are_ours_to_give(space->groups(), "gid_map"));
  if (!has_numbers || !may) {
    plan.notes.emplace_back(kOutsideNumbers);
    return;
  }
  plan.numbers = UserNumbers(*space);
  plan.user_space = space;
}

// Where only one user may be given (user_namespaces(7)), it is that of the tree.
void check_single_user(const Snapshot& snapshot, RestorePlan& plan) {
  if (!plan.user_space || ::geteuid() == 0) return;
  const auto is_known = plan.user != UserNumbers::kNone && plan.group != UserNumbers::kNone;
  if (!is_known) {  // it is another user's tree, which check_user() says
    plan.numbers = {}, plan.user_space = nullptr;
    return plan_user(snapshot, plan);
  }
  const auto has_others = [](const auto& ranges) {
    return ranges.size() > 1 || ranges[0].count() > 1;
  };
  if (has_others(plan.user_space->users()) || has_others(plan.user_space->groups()))
    plan.notes.push_back(fmt::format(
        "of the users that the tree's user namespace had, it has {} only: others take root",
        plan.user));
}

}  // namespace

uint32_t UserNumbers::user(uint32_t outside) const {
  return space_ ? inside(space_->users(), outside) : outside;
}
uint32_t UserNumbers::group(uint32_t outside) const {
  return space_ ? inside(space_->groups(), outside) : outside;
}

void plan_namespaces(const Snapshot& snapshot, const std::set<std::string>& without,
                     RestorePlan& plan) {
  const pb::NamespaceState* network = own_namespace(snapshot, snapshot.root(), "net");
  if (network && network->has_network() && !without.contains("network")) plan.network = network;
  if (!without.contains("mounts")) plan.mounts = own_mounts(snapshot);
  plan.names = own_namespace(snapshot, snapshot.root(), "uts");
  plan.own_cgroups = was_apart(snapshot, "cgroup");
  plan_user_numbers(snapshot, has_spaces_below(snapshot, without), plan);
  plan_user(snapshot, plan);
  check_single_user(snapshot, plan);
  plan_spaces(snapshot, without, plan);
  plan_mounts(snapshot, plan);
  plan_network(snapshot, plan);
  if (was_apart(snapshot, "mnt") && !plan.mounts)
    plan.notes.emplace_back("the tree had mounts of its own: it sees those that are here");
  const bool has_all[] = {plan.network != nullptr, plan.names != nullptr};
  for (size_t i = 0; const std::string_view kind : {"net", "uts"})
    if (!has_all[i++] && was_apart(snapshot, kind) && !plan.isolated)
      plan.notes.push_back(fmt::format(
          "the tree had its own {} namespace: it gets ours (--isolated: a new one)", kind));
}

IpcSettings settings_in(const pb::NamespaceState* space) {
  IpcSettings settings;
  if (space)
    for (const pb::Network::Setting& setting : space->settings())
      settings[setting.name()] = setting.value();
  return settings;
}

std::string describe_namespaces(const RestorePlan& plan) {
  std::string out;
  if (plan.user_space)
    for (const auto& [what, ranges] : {std::pair{"users", &plan.user_space->users()},
                                       std::pair{"groups", &plan.user_space->groups()}})
      for (const pb::IdRange& range : *ranges)
        out += fmt::format("user namespace: {} {} from {} on are those from {} on outside\n",
                           range.count(), what, range.inside(), range.outside());
  if (plan.names)
    out += fmt::format("uts namespace: host {}, domain {}\n", printable(plan.names->host_name()),
                       printable(plan.names->domain_name()));
  if (plan.mounts) out += describe_mounts(*plan.mounts);
  if (plan.network) out += describe_network(plan.network->network());
  out += describe_spaces(plan);
  return out;
}

}  // namespace snapgdb
