// Namespaces below those of the tree's first process.

#include "core/resource/spaces.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <set>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/network.h"
#include "core/linux/task.h"
#include "core/resource/message_queue.h"
#include "core/resource/mounts.h"
#include "core/resource/namespaces.h"
#include "core/resource/network.h"
#include "core/resource/restorer.h"
#include "core/resource/sharing.h"
#include "core/resource/system_v.h"

namespace snapgdb {
namespace {

constexpr std::string_view kNamespaceKinds[] = {"user", "net", "ipc", "uts",
                                                "time", "mnt", "pid", "cgroup"};

const pb::NamespaceState* state_of(const Snapshot& snapshot, uint64_t inode) {
  const auto& all = snapshot.record().spaces();
  const auto found = std::ranges::find(all, inode, &pb::NamespaceState::inode);
  return found == all.end() ? nullptr : &*found;
}

bool is_of_root(const Snapshot& snapshot, std::string_view kind, uint64_t inode) {
  return inode == namespace_in(snapshot.root().namespaces(), kind);
}

// Its place in plan.spaces; nullopt: it is not made.
std::optional<size_t> place_of(const RestorePlan& plan, uint64_t inode) {
  const auto found = std::ranges::find_if(
      plan.spaces, [&](const pb::NamespaceState* each) { return each->inode() == inode; });
  if (found == plan.spaces.end()) return std::nullopt;
  return static_cast<size_t>(found - plan.spaces.begin());
}

// Of users, in that user namespace.
UserNumbers numbers_in(const RestorePlan& plan, uint64_t user) {
  const auto place = place_of(plan, user);
  return place ? UserNumbers(*plan.spaces[*place]) : plan.numbers;
}

using Ranges = google::protobuf::RepeatedPtrField<pb::IdRange>;

// Lines for /proc/PID/uid_map; nullopt: some of them the namespace above does not have.
std::optional<std::string> lines_of(const Ranges& ranges, const auto& above) {
  std::string lines;
  for (const pb::IdRange& range : ranges) {
    const uint32_t first = above(range.outside()), last = range.count() - 1;
    if (range.count() == 0 || first == UserNumbers::kNone ||
        above(range.outside() + last) != first + last)
      return std::nullopt;
    lines += fmt::format("{} {} {}\n", range.inside(), first, range.count());
  }
  return lines;
}

// As whom it is made: who made it, or else whom its first line is about.
uint32_t maker_of(const Ranges& ranges, std::optional<uint32_t> maker, uint32_t otherwise,
                  const auto& above) {
  uint32_t number = maker ? above(*maker) : UserNumbers::kNone;
  if (number == UserNumbers::kNone && !ranges.empty()) number = above(ranges[0].outside());
  return number == UserNumbers::kNone ? otherwise : number;
}

std::optional<UserMaps> maps_of(const RestorePlan& plan, const pb::NamespaceState& user) {
  const UserNumbers above = numbers_in(plan, user.parent());
  const auto user_above = [&](uint32_t number) { return above.user(number); };
  const auto group_above = [&](uint32_t number) { return above.group(number); };
  auto users = lines_of(user.users(), user_above), groups = lines_of(user.groups(), group_above);
  if (!users || !groups) return std::nullopt;
  std::optional<uint32_t> maker;
  if (user.has_owner_user() && ::geteuid() == 0) maker = user.owner_user();
  return UserMaps{std::move(*users), std::move(*groups), user.setgroups_denied(),
                  maker_of(user.users(), maker, plan.user, user_above),
                  maker_of(user.groups(), std::nullopt, plan.group, group_above)};
}

// An ordinary user has one user to give, and one group.
bool may_give(const RestorePlan& plan, const pb::NamespaceState& user) {
  if (::geteuid() == 0) return true;
  const UserNumbers above = numbers_in(plan, user.parent());
  const bool is_first = !place_of(plan, user.parent());
  const auto is_one = [&](const Ranges& ranges, uint32_t number, uint32_t ours) {
    return ranges.empty() ||
           (ranges.size() == 1 && ranges[0].count() == 1 && (!is_first || number == ours));
  };
  return is_one(user.users(), user.users().empty() ? 0 : above.user(user.users(0).outside()),
                plan.user) &&
         is_one(user.groups(), user.groups().empty() ? 0 : above.group(user.groups(0).outside()),
                plan.group);
}

std::string links_in_the_way(const pb::Network& network) {
  for (const std::string& link : network.links()) {
    const LinkWords words = describe_link(link);
    if (const std::string why = why_not_made(words); !why.empty())
      return fmt::format("its link {}: {}", printable(words.name), why);
  }
  return "";
}

// Why that one cannot be made; "" if it can.
std::string why_not(const Snapshot& snapshot, const RestorePlan& plan,
                    const pb::NamespaceState& state) {
  const uint64_t owner = state.kind() == "user" ? state.parent() : state.owner();
  if (!is_of_root(snapshot, "user", owner) && !place_of(plan, owner))
    return "it belongs to a user namespace that is not the tree's";
  if (state.kind() == "mnt" && state.mounts().empty()) return "what is mounted is not in the image";
  if (state.kind() == "net") return links_in_the_way(state.network());
  if (state.kind() != "user") return "";
  if (!may_give(plan, state)) return "only root makes one of several users, or of others";
  return maps_of(plan, state) ? "" : "the one above it does not have all of its users";
}

// Of all kinds that processes are in and the first one is not, with the user namespaces to which
// they belong. By inode: somebody who is in it, or in what belongs to it.
std::map<uint64_t, int32_t> needed_spaces(const Snapshot& snapshot,
                                          const std::set<std::string>& without) {
  std::map<uint64_t, int32_t> needed;
  const auto need = [&](std::string_view kind, uint64_t inode, int32_t who) {
    while (inode && !is_of_root(snapshot, kind, inode) && needed.emplace(inode, who).second) {
      const pb::NamespaceState* state = state_of(snapshot, inode);
      if (!state) return;
      inode = kind == "user" ? state->parent() : state->owner();
      kind = "user";
    }
  };
  for (const pb::Process& process : snapshot.processes())
    for (const std::string_view kind : kNamespaceKinds)
      if ((kind != "net" || !without.contains("network")) &&
          (kind != "mnt" || !without.contains("mounts")))
        need(kind, namespace_in(process.namespaces(), kind), process.pid());
  return needed;
}

constexpr const char* kChildren = "pid_for_children";

// Whether its children are to be born into another pid namespace than its own.
bool has_children_elsewhere(const pb::Process& process) {
  const uint64_t own = namespace_in(process.namespaces(), "pid"),
                 of_children = namespace_in(process.namespaces(), kChildren);
  return own && of_children && own != of_children;
}

// The first of that pid namespace; nullptr: it has ended.
const pb::Process* first_in(const Snapshot& snapshot, uint64_t pids) {
  for (const pb::Process& process : snapshot.processes())
    if (own_number(process) == 1 && namespace_in(process.namespaces(), "pid") == pids)
      return &process;
  return nullptr;
}

// Of pids: they begin with the birth of their first process.
void check_births(const Snapshot& snapshot, const pb::Process& process, RestorePlan& plan) {
  const bool stays = process.threads_size() > 1 ||
                     !first_in(snapshot, namespace_in(process.namespaces(), kChildren));
  if (has_children_elsewhere(process) && stays)
    plan.notes.push_back(fmt::format(
        "process {}: children that it will have are in its own pid namespace, not in another",
        process.pid()));
  const uint64_t own_time = namespace_in(process.namespaces(), "time"),
                 time_of_children = namespace_in(process.namespaces(), "time_for_children");
  if (own_time != time_of_children && time_of_children)
    plan.notes.push_back(fmt::format(
        "process {}: children that it will have see its own clocks, not others", process.pid()));
  const pb::Process* parent = snapshot.process(process.parent());
  if (!parent || is_zombie(process)) return;
  const auto pids_of = [](const pb::Process& one) { return namespace_in(one.namespaces(), "pid"); };
  if (!begins_pids(snapshot, process) && pids_of(process) != pids_of(*parent))
    plan.obstacles.push_back(
        {process.pid(), "pid namespace", "somebody who is not in it has put it there", ""});
}

void check_directories(const Snapshot& snapshot, const pb::Process& process, RestorePlan& plan) {
  const uint64_t user = namespace_in(process.namespaces(), "user");
  if (!place_of(plan, user) && !is_below(snapshot, mounts_of(snapshot, process))) return;
  for (const pb::Process& other : snapshot.processes())
    if (other.pid() != process.pid() && other.file_system() != 0 &&
        other.file_system() == process.file_system())
      return plan.obstacles.push_back(
          {process.pid(), "namespaces",
           fmt::format(
               "it shares its directories with process {}: the kernel lets neither enter one",
               other.pid()),
           ""});
}

}  // namespace

bool has_spaces_below(const Snapshot& snapshot, const std::set<std::string>& without) {
  return !needed_spaces(snapshot, without).empty();
}

namespace {

void lacks_space(RestorePlan& plan, int32_t who, std::string_view kind, std::string why) {
  constexpr std::string_view kCapture = "capture the first process that is in it, and those below";
  plan.obstacles.push_back(
      {who, fmt::format("{} namespace", kind), std::move(why),
       fmt::format("{}{}", kind == "net" ? "--without network, or " : "", kCapture)});
}

// `who` is in it, or in what belongs to it.
void plan_space(const Snapshot& snapshot, const pb::NamespaceState& state, int32_t who,
                RestorePlan& plan) {
  const std::string& kind = state.kind();
  if (std::string why = why_not(snapshot, plan, state); !why.empty())
    return lacks_space(plan, who, kind, std::move(why));
  if (kind == "mnt")
    plan.mount_spaces.push_back({&state, member_of(snapshot, kind, state.inode())});
  else if (kind != "pid")
    plan.spaces.push_back(&state);
  if (kind == "pid" && !is_of_root(snapshot, "user", state.owner()))
    plan.notes.push_back(fmt::format(
        "process {}: its pid namespace belongs to the user namespace of the tree's first process",
        who));
}

}  // namespace

void plan_spaces(const Snapshot& snapshot, const std::set<std::string>& without,
                 RestorePlan& plan) {
  const std::map<uint64_t, int32_t> needed = needed_spaces(snapshot, without);
  for (const pb::NamespaceState& state : snapshot.record().spaces())
    if (const auto who = needed.find(state.inode()); who != needed.end())
      plan_space(snapshot, state, who->second, plan);
  for (const pb::Process& process : snapshot.processes()) {
    for (const pb::Namespace& one : process.namespaces())
      if (needed.contains(one.inode()) && !state_of(snapshot, one.inode()))
        lacks_space(plan, process.pid(), one.kind(), "the image does not tell what it holds");
    check_directories(snapshot, process, plan);
    check_births(snapshot, process, plan);
  }
}

std::string describe_spaces(const RestorePlan& plan) {
  std::string out;
  for (const pb::NamespaceState* state : plan.spaces) {
    out += fmt::format("below: a {} namespace{}\n", state->kind(),
                       state->kind() == "uts" ? ", host " + printable(state->host_name()) : "");
    if (state->kind() == "net") out += describe_network(state->network());
  }
  for (const auto& [state, member] : plan.mount_spaces)
    out += fmt::format("below: a mnt namespace\n{}", describe_mounts(*state));
  return out;
}

bool is_in_space(const RestorePlan& plan, uint64_t inode) {
  return place_of(plan, inode).has_value();
}

uint64_t ipc_of(const pb::Process& process) {
  return namespace_in(process.namespaces(), "ipc");
}

bool is_new_ipc(const RestorePlan& plan, uint64_t space) {
  return plan.system_v.own_namespace || is_in_space(plan, space);
}

const pb::Process* member_of(const Snapshot& snapshot, std::string_view kind, uint64_t inode) {
  const auto& all = snapshot.processes();
  const auto found = std::ranges::find_if(all, [&](const pb::Process& process) {
    return !is_zombie(process) && namespace_in(process.namespaces(), kind) == inode;
  });
  return found == all.end() ? nullptr : &*found;
}

bool has_user_space(const RestorePlan& plan, const pb::Process& process) {
  return is_in_space(plan, namespace_in(process.namespaces(), "user"));
}

UserNumbers numbers_for(const RestorePlan& plan, const pb::Process& process) {
  return numbers_in(plan, namespace_in(process.namespaces(), "user"));
}

// ---- Making them --------------------------------------------------------------------------------

void make_ipc_objects(const Snapshot& snapshot, const RestorePlan& plan, uint64_t space) {
  MadeSystemV made;
  made.make(snapshot, plan, space);
  made.keep();
  MadeMessageQueues queues;
  queues.make(plan, space);
  queues.keep();
}

NestedSpaces::NestedSpaces(const Snapshot& snapshot, const RestorePlan& plan,
                           const ClockOffsets& ours, const CgroupDoors& doors)
    : plan_(plan) {
  for (const pb::NamespaceState* state : plan.spaces)
    made_.push_back(make(snapshot, *state, ours, doors));
  make_networks();
}

// Links of all first: pairs of them have ends in two.
void NestedSpaces::make_networks() {
  const Fd here(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!here.valid()) throw_errno("cannot open /proc/self/ns/net");
  const auto take = [&](const std::vector<std::string>& notes) {
    for (const std::string& note : notes) notes_.push_back("in a network below: " + note);
  };
  std::vector<std::pair<const Fd*, NetworkContents>> networks;
  std::map<uint64_t, int> made;
  if (plan_.network) made[plan_.network->inode()] = here.get();
  for (size_t i = 0; i < made_.size(); ++i) {
    const pb::NamespaceState& state = *plan_.spaces[i];
    if (state.kind() != "net") continue;
    const OtherEnds ends{.outside = outside_ends(plan_, state),
                         .outside_network = here.get(),
                         .paired = paired_ends(plan_, state, made)};
    const auto& [held, contents] =
        networks.emplace_back(&made_[i], contents_of(state.network(), plan_.numbers));
    in_namespace(*held, "net", [&] { take(make_links(contents.links, ends)); });
    take(connect_ends(ends.outside));
    made[state.inode()] = held->get();
  }
  for (const auto& [held, contents] : networks)
    in_namespace(*held, "net", [&] { take(fill_network(contents)); });
}

Fd NestedSpaces::make(const Snapshot& snapshot, const pb::NamespaceState& state,
                      const ClockOffsets& ours, const CgroupDoors& doors) {
  static const Fd kOurs;
  const std::string& kind = state.kind();
  const auto above = place_of(plan_, kind == "user" ? state.parent() : state.owner());
  const Fd& owner = above ? made_[*above] : kOurs;
  if (kind == "user") return make_user_namespace(owner, *maps_of(plan_, state));
  if (kind == "time")
    return make_time_namespace(owner, clock_in(snapshot, &state, CLOCK_MONOTONIC),
                               clock_in(snapshot, &state, CLOCK_BOOTTIME), ours);
  Fd made = make_namespace(kind, owner, [&] {
    std::ranges::move(enter_root(doors, state), std::back_inserter(notes_));
  });
  if (kind == "uts")
    in_namespace(made, kind, [&] { name_host({state.host_name(), state.domain_name()}); });
  if (kind == "ipc")
    in_namespace(made, kind, [&] {
      std::ranges::copy(set_ipc_settings(settings_in(&state)), std::back_inserter(notes_));
      make_ipc_objects(snapshot, plan_, state.inode());
    });
  return made;
}

void NestedSpaces::in(std::string_view kind, uint64_t inode,
                      const std::function<void()>& work) const {
  const auto place = place_of(plan_, inode);
  place ? in_namespace(made_[*place], kind, work) : work();
}

void NestedSpaces::add_to(std::vector<Fd>& files) {
  for (Fd& made : made_) files.push_back(std::move(made));
}

// ---- Entering them ------------------------------------------------------------------------------

bool begins_pids(const Snapshot& snapshot, const pb::Process& process) {
  const pb::Process* parent = snapshot.process(process.parent());
  return parent && own_number(process) == 1 && process.ns_pids_size() > parent->ns_pids_size();
}

void give_children_pids(const Snapshot& snapshot, const pb::Process& process, Seed& seed) {
  const pb::Process* first = has_children_elsewhere(process)
                                 ? first_in(snapshot, namespace_in(process.namespaces(), kChildren))
                                 : nullptr;
  if (!first) return;
  constexpr uint32_t kAtFdcwd = static_cast<uint32_t>(AT_FDCWD);
  const std::string path = fmt::format("/proc/{}/ns/pid", tree_number(snapshot, *first));
  const int64_t pids =
      seed.call("open " + path, SYS_openat, {kAtFdcwd, seed.put(path), O_RDONLY | O_CLOEXEC});
  seed.add("have its children born into a pid namespace", SYS_setns,
           {static_cast<uint64_t>(pids), CLONE_NEWPID});
  seed.add("close a descriptor", SYS_close, {static_cast<uint64_t>(pids)});
  seed.perform();
}

namespace {

size_t first_descriptor(const RestorePlan& plan) {
  return static_cast<size_t>(plan.file_base) + plan.files.size() + kDeliverySockets;
}

// Also before anybody has entered it: one below, or else the tree's. The tree's clocks are those of
// the keeper's children.
Fd space_of(const RestoreContext& context, std::string_view kind, uint64_t inode) {
  const RestorePlan& plan = context.plan;
  if (const auto place = place_of(plan, inode))
    return duplicate_descriptor(context.keeper, static_cast<int>(first_descriptor(plan) + *place));
  const std::string name = kind == "time" ? "ns/time_for_children" : fmt::format("ns/{}", kind);
  return ProcDirectory::of(Pid{context.keeper.value}).open(name, O_RDONLY);
}

Fd pids_of(const RestoreContext& context, const pb::Process& process) {
  return ProcDirectory::of(Pid{context.seed_of(process).tid().value}).open("ns/pid", O_RDONLY);
}

// Makes what shows pid namespaces below, in that mount namespace.
void add_later_mounts(RestoreContext& context, const Fd& mounts, const MountParts& parts) {
  for (const auto& [pids, tree] : parts.later) {
    const pb::Process& first = *first_in(context.snapshot, pids);
    const auto space = [&](std::string_view kind) {
      return space_of(context, kind, namespace_in(first.namespaces(), kind));
    };
    const MountPlace place{.mounts = space_of(context, "mnt", 0),
                           .network = space("net"),
                           .ipc = space("ipc"),
                           .pids = pids_of(context, first)};
    std::ranges::copy(add_mounts(place, mounts, tree), std::back_inserter(context.notes));
  }
}

void enter(const RestoreContext& context, const pb::Process& process, std::string_view kind,
           const Fd& space, Seed& seed) {
  const int number = static_cast<int>(first_descriptor(context.plan) + context.plan.spaces.size());
  give_descriptor(context, seed, space, number, fmt::format("its {} namespace", kind));
  seed.add(fmt::format("have process {} enter a {} namespace", process.pid(), kind), SYS_setns,
           {static_cast<uint64_t>(number), static_cast<uint64_t>(namespace_flag(kind))});
  seed.add("close a descriptor", SYS_close, {static_cast<uint64_t>(number)});
  seed.perform();
}

// As that user namespace calls one that it has; `otherwise`: in the tree's own.
uint32_t somebody_in(const RestorePlan& plan, uint64_t user,
                     const Ranges& (pb::NamespaceState::*ranges)() const, uint32_t otherwise) {
  const auto place = place_of(plan, user);
  if (!place) return otherwise;
  const Ranges& all = (plan.spaces[*place]->*ranges)();
  return all.empty() ? otherwise : all[0].inside();
}

}  // namespace

void enter_ipc(const RestoreContext& context, const pb::Process& process, uint64_t space,
               Seed& seed) {
  enter(context, process, "ipc", space_of(context, "ipc", space), seed);
}

void enter_mount_spaces(RestoreContext& context, const ScratchOverlays& overlays) {
  const RestorePlan& plan = context.plan;
  const auto of_keeper = [&](std::string_view kind) { return space_of(context, kind, 0); };
  if (plan.mounts)
    add_later_mounts(context, of_keeper("mnt"),
                     mounts_for(context.snapshot, plan, *plan.mounts, plan.numbers, overlays));
  PeerGroups groups;
  if (plan.mounts)
    groups = peers_in(*plan.mounts, ProcDirectory::of(Pid{context.keeper.value})
                                        .open("root", O_PATH | O_DIRECTORY | O_CLOEXEC));
  for (const auto& [state, member] : plan.mount_spaces) {
    MountParts parts =
        mounts_for(context.snapshot, plan, *state, numbers_in(plan, state->owner()), overlays);
    parts.first.others = &groups;
    const MountPlace place{
        .mounts = of_keeper("mnt"),
        .network = space_of(context, "net", namespace_in(member->namespaces(), "net")),
        .ipc = space_of(context, "ipc", ipc_of(*member)),
        .pids = pids_of(context, context.snapshot.root()),
        .owner = space_of(context, "user", state->owner()),
        .user = somebody_in(plan, state->owner(), &pb::NamespaceState::users, plan.user),
        .group = somebody_in(plan, state->owner(), &pb::NamespaceState::groups, plan.group)};
    MadeMounts made = make_mount_namespace(place, parts.first);
    groups.merge(made.groups);
    std::ranges::copy(made.notes, std::back_inserter(context.notes));
    add_later_mounts(context, made.space, parts);
    for (const pb::Process& process : context.snapshot.processes())
      if (!is_zombie(process) && namespace_in(process.namespaces(), "mnt") == state->inode())
        enter(context, process, "mnt", made.space, context.seed_of(process));
  }
}

// Who was born of one in another time namespace may be in that of the tree's first process.
void enter_clocks(const RestoreContext& context, const pb::Process& process,
                  const pb::Process& above, Seed& seed) {
  const uint64_t own = namespace_in(process.namespaces(), "time");
  if (own == 0 || own == namespace_in(above.namespaces(), "time")) return;
  enter(context, process, "time", space_of(context, "time", own), seed);
}

// A user namespace last: whoever is there has no rights outside any more.
void enter_spaces(const RestorePlan& plan, const pb::Process& process, Seed& seed) {
  const size_t base = first_descriptor(plan);
  const auto enter = [&](const pb::Namespace& one) {
    if (const auto place = place_of(plan, one.inode()))
      seed.add(fmt::format("enter a {} namespace", one.kind()), SYS_setns,
               {base + *place, static_cast<uint64_t>(namespace_flag(one.kind()))});
  };
  for (const bool users : {false, true})
    for (const pb::Namespace& one : process.namespaces())
      if ((one.kind() == "user") == users && one.kind() != "time" && namespace_flag(one.kind()))
        enter(one);
  seed.perform();
}

}  // namespace snapgdb
