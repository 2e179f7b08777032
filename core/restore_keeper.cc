// What the keeper of a restored tree is told to make, before anybody is born.

#include "core/restore.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/task.h"
#include "core/resource/mounts.h"
#include "core/resource/namespaces.h"
#include "core/resource/network.h"
#include "core/resource/spaces.h"

namespace snapgdb {
namespace {

// It, or one above it: to users whom the tree's user namespace does not have, or ours not, which
// shows them as nobody (/proc/sys/kernel/overflowuid).
bool belongs_to_others(const RestorePlan& plan, std::filesystem::path directory) {
  constexpr uint32_t kNobody = 65534;
  const auto is_other = [&](uint32_t user) {
    if (::geteuid() != 0) return user != ::geteuid();
    return user == kNobody || plan.numbers.user(user) == UserNumbers::kNone;
  };
  struct stat status {};
  for (; directory.has_relative_path(); directory = directory.parent_path())
    if (::stat(directory.c_str(), &status) == 0 && is_other(status.st_uid)) return true;
  return false;
}

// Where the tree is likely to write.
std::set<std::string> written_directories(const Snapshot& snapshot, const RestorePlan& plan) {
  std::set<std::string> directories;
  for (const pb::Process& process : snapshot.processes()) {
    const pb::NamespaceState* mounts = planned_mounts(snapshot, plan, process);
    const auto add = [&](const std::string& path) {
      if (const auto outside = path_outside(mounts, path)) directories.insert(*outside);
    };
    add(process.working_directory());
    for_each_descriptor(process, [&](const pb::Descriptor& descriptor) {
      if (descriptor.has_file() && (descriptor.flags() & O_ACCMODE) != O_RDONLY)
        add(std::filesystem::path(descriptor.target()).parent_path());
      if (const std::string& name = descriptor.socket().file().path(); !name.empty())
        add(std::filesystem::path(name).parent_path());
    });
  }
  return directories;
}

// What the tree needs of a sandbox.
Sandbox::Options sandbox_for(const Snapshot& snapshot, const RestorePlan& plan) {
  Sandbox::Options options;
  if (plan.lazy) options.devices.emplace_back(kUserfaultDevice);
  std::ranges::copy_if(written_directories(snapshot, plan), std::back_inserter(options.directories),
                       [&](const auto& path) { return belongs_to_others(plan, path); });
  for (const PlannedFile& file : plan.files) {
    const bool is_device = file.how == PlannedFile::How::kOpened && file.descriptor &&
                           file.descriptor->has_device_node() &&
                           !file.descriptor->device_node().terminal();
    if (is_device)
      if (const auto outside = path_outside(planned_mounts(snapshot, plan, *file.descriptor),
                                            file.descriptor->target()))
        options.devices.push_back(*outside);
    if (file.replacement)
      options.replaced.push_back(
          path_outside(plan.mounts, file.mapping->name()).value_or(file.mapping->name()));
  }
  return options;
}

std::vector<Keeper::Options::Range> ranges_of(
    const google::protobuf::RepeatedPtrField<pb::IdRange>& ranges) {
  std::vector<Keeper::Options::Range> out;
  for (const pb::IdRange& range : ranges)
    out.push_back({range.inside(), range.outside(), range.count()});
  return out;
}

// What the namespaces of its own that the first process had hold.
void set_up_namespaces(const Snapshot& snapshot, const RestorePlan& plan,
                       const ScratchOverlays& overlays, Keeper::Options& options) {
  if (plan.user_space) {
    options.users = ranges_of(plan.user_space->users());
    options.groups = ranges_of(plan.user_space->groups());
    options.deny_setgroups = plan.user_space->setgroups_denied();
  }
  options.own_cgroups = plan.own_cgroups;
  if (plan.system_v.own_namespace)
    options.ipc_settings = settings_in(own_namespace(snapshot, snapshot.root(), "ipc"));
  if (plan.mounts)
    options.make_mounts = [&snapshot, &plan, &overlays] {
      return make_mounts(mounts_for(snapshot, plan, *plan.mounts, plan.numbers, overlays).first);
    };
  if (plan.network)
    options.make_network = [&plan](const Fd& outside) {
      const OtherEnds ends{.outside = outside_ends(plan, *plan.network),
                           .outside_network = outside.get(),
                           .paired = paired_ends(plan, *plan.network, {})};
      return make_links(contents_of(plan.network->network(), plan.numbers).links, ends);
    };
  if (plan.names) options.names = {plan.names->host_name(), plan.names->domain_name()};
}

Fd open_parent(const std::string& path) {
  const std::string parent = std::filesystem::absolute(path).parent_path();
  Fd directory(::open(parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) throw_errno("cannot open {}", printable(parent));
  return directory;
}

}  // namespace

void RestoredTree::start_keeper(const std::string& scratch) {
  const Fd save_in = scratch.empty() ? Fd() : open_parent(scratch);
  Keeper::Options options{
      .own_pids = own_pids_,
      .own_user = plan_.isolated || plan_.own_user || (own_pids_ && ::geteuid() != 0),
      .root_pid = own_number(snapshot_.root()),
      .seed_base = plan_.seed_base,
      .file_base = plan_.file_base,
      .user = plan_.user,
      .group = plan_.group,
      .save_in = save_in.get(),
      .save_as = std::filesystem::path(scratch).filename(),
      .monotonic_ns = tree_clock(snapshot_, CLOCK_MONOTONIC),
      .boottime_ns = tree_clock(snapshot_, CLOCK_BOOTTIME)};
  const Tid self = leader_of(Pid{::getpid()});
  options.our_clocks = {clock_offset(self, CLOCK_MONOTONIC), clock_offset(self, CLOCK_BOOTTIME)};
  overlays_ = make_scratch_overlays(plan_);
  set_up_namespaces(snapshot_, plan_, overlays_, options);
  if (plan_.isolated) {
    options.sandbox = sandbox_for(snapshot_, plan_);
    if (!options.names)
      options.names = {snapshot_.record().host().node_name(), host_names().domain};
  }
  const uint64_t ipc = ipc_of(snapshot_.root());
  if (plan_.system_v.own_namespace)
    options.enter_ipc = [&] { make_ipc_objects(snapshot_, plan_, ipc); };
  else
    system_v_.make(snapshot_, plan_, ipc), message_queues_.make(plan_, ipc);
  cgroups_.make(snapshot_, plan_);
  if (!plan_.cgroup_roots.empty())
    options.put_into_cgroups = [this](Pid keeper) {
      cgroups_.put_where_namespace_begins(plan_, keeper);
    };
  OpeningContext opening{snapshot_, plan_};
  opening.numbers = plan_.numbers;
  opening.closes_connections = plan_.connections == RestorePlan::Connections::kClosed;
  prepare_shared_memory(opening, plan_);
  const CgroupDoors doors = cgroups_.doors(plan_);
  std::optional<NestedSpaces> spaces;
  options.make_spaces = [&] {
    spaces.emplace(snapshot_, plan_, options.our_clocks, doors);
    std::vector<std::string> notes = spaces->notes();
    if (plan_.network)
      std::ranges::copy(fill_network(contents_of(plan_.network->network(), plan_.numbers)),
                        std::back_inserter(notes));
    return notes;
  };
  keeper_ = std::make_unique<Keeper>(options, [&](const Sandbox* sandbox) {
    OpeningContext context = std::move(opening);
    context.sandbox = sandbox;
    context.spaces = &*spaces;
    OpenedFiles opened{open_files(context, plan_), {}};
    add_delivery_sockets(opened.files);
    spaces->add_to(opened.files);
    opened.notes = std::move(context.notes);
    return opened;
  });
  std::ranges::copy(keeper_->notes(), std::back_inserter(notes_));
  if (plan_.network)
    std::ranges::copy(connect_ends(outside_ends(plan_, *plan_.network)),
                      std::back_inserter(notes_));
}

}  // namespace snapgdb
