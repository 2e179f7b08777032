// The mounts of a tree, as records of an image: what becomes of them, and where paths lead.

#include "core/resource/mounts.h"

#include <fcntl.h>

#include <algorithm>
#include <map>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/mount_info.h"
#include "core/linux/overlay.h"
#include "core/resource/file_tree.h"
#include "core/resource/mount_records.h"
#include "core/resource/namespaces.h"
#include "core/resource/restorer.h"

namespace snapgdb {

FileSystemKind kind_of(std::string_view type) {
  constexpr std::string_view kKernel[] = {"proc",    "sysfs",     "devpts",   "mqueue",
                                          "cgroup2", "debugfs",   "tracefs",  "securityfs",
                                          "bpf",     "hugetlbfs", "configfs", "fusectl"};
  if (type == "tmpfs" || type == "ramfs") return FileSystemKind::kMemory;
  if (type == "overlay") return FileSystemKind::kLayers;
  return std::ranges::count(kKernel, type) ? FileSystemKind::kKernel : FileSystemKind::kOther;
}

namespace {

MountInfo info_of(const pb::NamespaceState& space, const pb::Mount& mount) {
  return {.id = mount.id(),
          .parent = mount.parent(),
          .device = space.file_systems(static_cast<int>(mount.file_system())).device(),
          .root = mount.root(),
          .point = mount.point(),
          .attributes = mount.attributes(),
          .shared = mount.shared(),
          .master = mount.master(),
          .unbindable = mount.unbindable()};
}

const pb::FileSystem& system_of(const pb::NamespaceState& space, const pb::Mount& mount) {
  return space.file_systems(static_cast<int>(mount.file_system()));
}

OverlayOptions overlay_of(const pb::FileSystem& system) {
  return kind_of(system.type()) == FileSystemKind::kLayers ? parse_overlay_options(system.options())
                                                           : OverlayOptions{};
}

const pb::Mount* mount_of(const pb::NamespaceState& space, const std::string& path) {
  std::vector<MountInfo> mounts;
  for (const pb::Mount& mount : space.mounts()) mounts.push_back(info_of(space, mount));
  const MountInfo* found = mount_at(mounts, path);
  return found ? &space.mounts(static_cast<int>(found - mounts.data())) : nullptr;
}

// Where the same is shown by that from which this namespace is made: that of the first process,
// `above`, for those below it, or else ours. "": nowhere.
std::string source_of(const pb::NamespaceState* above, const pb::NamespaceState& space,
                      const pb::Mount& mount) {
  if (!above) return mount.outside();
  const bool is_covered = mount_of(space, mount.point()) != &mount;
  std::string found;
  for (const pb::Mount& other : above->mounts()) {
    if (system_of(*above, other).device() != system_of(space, mount).device() ||
        !is_at_or_below(mount.root(), other.root()))
      continue;
    if (is_covered && other.point() == mount.point() && other.root() == mount.root())
      return mount.point();  // as in MountCapture::outside_of()
    const std::string path = joined(other.point(), below(mount.root(), other.root()));
    if (mount_of(*above, path) != &other) continue;  // something hides it
    if (path == mount.point()) return path;
    if (found.empty()) found = path;
  }
  return found;
}

// Of an overlay. In memory that is itself made anew, a layer cannot be had in time.
std::string why_no_layer(const pb::NamespaceState& space, const std::string& layer) {
  struct stat status {};
  if (!layer.starts_with('/'))
    return fmt::format("its layer {} was named from a directory that is not known",
                       printable(layer));
  const pb::Mount* under = mount_of(space, layer);
  if (under && under->outside().empty() &&
      entry_at(system_of(space, *under), joined(under->root(), below(layer, under->point()))))
    return fmt::format("its layer {} is in the {} at {}, which only the tree had", printable(layer),
                       printable(system_of(space, *under).type()), printable(under->point()));
  return ::stat(layer.c_str(), &status) == 0
             ? ""
             : fmt::format("its layer {} is not there", printable(layer));
}

std::string why_no_overlay(const pb::NamespaceState& space, const OverlayOptions& overlay) {
  std::vector<std::string> directories = overlay.layers();
  if (!overlay.work.empty()) directories.push_back(overlay.work);
  for (const std::string& directory : directories)
    if (std::string why = why_no_layer(space, directory); !why.empty()) return why;
  return "";
}

// "" if it can be had. In a sandbox all is overlays, of which overlayfs makes no upper layer, and
// which hide what says in a lower one that something is gone: others are made outside, by root.
std::string why_lost(const pb::NamespaceState* above, const pb::NamespaceState& space,
                     const pb::Mount& mount, bool isolated) {
  struct stat status {};
  const pb::FileSystem& system = system_of(space, mount);
  if (above && !source_of(above, space, mount).empty()) return "";
  if (above && !mount.outside().empty())
    return fmt::format("it is {} outside, where the first process does not see it",
                       printable(mount.outside()));
  if (!mount.outside().empty())
    return ::stat(mount.outside().c_str(), &status) == 0
               ? ""
               : fmt::format("it is {}, which is not there", printable(mount.outside()));
  if (mount.root().ends_with(kRemovedRoot)) return "what was mounted has been removed since";
  switch (kind_of(system.type())) {
    case FileSystemKind::kMemory:
      return system.why_incomplete();
    case FileSystemKind::kKernel:
      return mount.root() == "/" || system.type() == "proc" ? "" : "it is a part of one";
    case FileSystemKind::kLayers:
      if (isolated && ::geteuid() != 0) return "isolated, only root mounts an overlay again";
      return why_no_overlay(space, overlay_of(system));
    case FileSystemKind::kOther:
      break;
  }
  return fmt::format("it is a {} that is mounted nowhere else", printable(system.type()));
}

// Owners are told there by the numbers outside of all user namespaces.
std::string options_inside(const pb::FileSystem& system, const UserNumbers& numbers) {
  std::vector<std::string> options;
  for (const std::string_view option : split(system.options(), ',')) {
    const bool is_user = option.starts_with("uid="), is_group = option.starts_with("gid=");
    const auto number = parse_number<uint32_t>(option.substr(is_user || is_group ? 4 : 0));
    if (!(is_user || is_group) || !number) {
      options.emplace_back(option);
      continue;
    }
    const uint32_t inside = is_user ? numbers.user(*number) : numbers.group(*number);
    if (inside != UserNumbers::kNone)
      options.push_back(fmt::format("{}{}", option.substr(0, 4), inside));
  }
  return fmt::format("{}", fmt::join(options, ","));
}

bool has_root_of(const pb::NamespaceState* above, const pb::NamespaceState& space) {
  const auto root = std::ranges::find(space.mounts(), "/", &pb::Mount::point);
  return root == space.mounts().end() || source_of(above, space, *root) == "/";
}

// What several namespaces below have in common, and nobody above: it would be another one in each.
std::string why_apart(const Snapshot& snapshot, const RestorePlan& plan,
                      const pb::NamespaceState& space, const pb::Mount& mount) {
  const pb::FileSystem& system = system_of(space, mount);
  if (!source_of(plan.mounts, space, mount).empty() || system.type() == "proc" ||
      system.type() == "sysfs")
    return "";
  for (const pb::NamespaceState& other : snapshot.record().spaces())
    if (other.inode() != space.inode() &&
        std::ranges::count(other.file_systems(), system.device(), &pb::FileSystem::device))
      return fmt::format("it is a {} that is mounted in several mount namespaces of the tree",
                         printable(system.type()));
  return "";
}

// The mounts of Sandbox: all of its layers are in memory, and were there only.
bool is_sandbox(const pb::NamespaceState& space) {
  constexpr std::string_view kScratch = "/proc/", kUpper = "/upper";
  return std::ranges::any_of(space.file_systems(), [&](const pb::FileSystem& system) {
    const OverlayOptions overlay = overlay_of(system);
    std::string_view upper = overlay.upper;
    if (!upper.starts_with(kScratch) || !upper.ends_with(kUpper)) return false;
    upper.remove_prefix(kScratch.size());
    upper.remove_suffix(std::min(kUpper.size(), upper.size()));
    return parse_number<uint32_t>(upper).has_value();
  });
}

}  // namespace

void plan_mounts(const Snapshot& snapshot, RestorePlan& plan) {
  constexpr const char* kHelp = "--without mounts: the tree sees the mounts that are here";
  const auto object = [&](int32_t who, const pb::Mount& mount, const std::string& why) {
    if (!why.empty())
      plan.obstacles.push_back(
          {who, fmt::format("what is mounted at {}", printable(mount.point())), why, kHelp});
  };
  if (plan.mounts && is_sandbox(*plan.mounts))
    plan.obstacles.push_back({snapshot.root().pid(), "its mounts",
                              "the tree was captured in a sandbox (restore --isolated), and what "
                              "it wrote there is nowhere else",
                              kHelp});
  else if (plan.mounts)
    for (const pb::Mount& mount : plan.mounts->mounts())
      object(snapshot.root().pid(), mount, why_lost(nullptr, *plan.mounts, mount, plan.isolated));
  for (const auto& [space, member] : plan.mount_spaces)
    for (const pb::Mount& mount : space->mounts()) {
      const std::string why = why_lost(plan.mounts, *space, mount, plan.isolated);
      object(member->pid(), mount, why.empty() ? why_apart(snapshot, plan, *space, mount) : why);
    }
}

std::string describe_mounts(const pb::NamespaceState& space) {
  std::string out;
  for (const pb::Mount& mount : space.mounts()) {
    const pb::FileSystem& system = system_of(space, mount);
    const std::string from =
        mount.outside().empty()
            ? fmt::format("a new {} with {} files", printable(system.type()), system.entries_size())
            : printable(mount.outside());
    out += fmt::format("mount namespace: {} at {}\n", from, printable(mount.point()));
  }
  return out;
}

namespace {

// Which of the pid namespaces below it shows, also by what it is mounted on; 0: none.
uint64_t pids_below(const Snapshot& snapshot, const pb::NamespaceState& space,
                    const pb::Mount& mount) {
  const pb::FileSystem& system = system_of(space, mount);
  const uint64_t pids = mount.root() == "/" ? system.pid_namespace() : 0;
  const bool is_there = std::ranges::any_of(snapshot.processes(), [&](const pb::Process& process) {
    return pids && own_number(process) == 1 && namespace_in(process.namespaces(), "pid") == pids &&
           &process != &snapshot.root();
  });
  if (is_there) return pids;
  const auto parent = std::ranges::find(space.mounts(), mount.parent(), &pb::Mount::id);
  return parent == space.mounts().end() || parent->id() == mount.id()
             ? 0
             : pids_below(snapshot, space, *parent);
}

}  // namespace

// Whether what it is mounted on shows the same there.
static bool is_on_itself(const pb::NamespaceState& space, const pb::Mount& mount) {
  const auto on = std::ranges::find(space.mounts(), mount.parent(), &pb::Mount::id);
  return on != space.mounts().end() && on->id() != mount.id() &&
         on->file_system() == mount.file_system() && is_at_or_below(mount.point(), on->point()) &&
         joined(on->root(), below(mount.point(), on->point())) == mount.root() &&
         mount_of(space, mount.point()) == &mount;
}

ScratchOverlays make_scratch_overlays(const RestorePlan& plan) {
  ScratchOverlays made;
  const auto make_those_of = [&](const pb::NamespaceState* above, const pb::NamespaceState& space) {
    for (const pb::Mount& mount : space.mounts()) {
      const pb::FileSystem& system = system_of(space, mount);
      if (kind_of(system.type()) != FileSystemKind::kLayers ||
          !source_of(above, space, mount).empty() || made.contains(system.device()))
        continue;
      made[system.device()] = make_scratch_overlay(system.source(), overlay_of(system));
    }
  };
  if (!plan.isolated || ::geteuid() != 0) return made;
  if (plan.mounts) make_those_of(nullptr, *plan.mounts);
  for (const auto& [space, member] : plan.mount_spaces) make_those_of(plan.mounts, *space);
  return made;
}

MountParts mounts_for(const Snapshot& snapshot, const RestorePlan& plan,
                      const pb::NamespaceState& space, const UserNumbers& numbers,
                      const ScratchOverlays& overlays) {
  const pb::NamespaceState* above = is_below(snapshot, &space) ? plan.mounts : nullptr;
  MountTree none;
  none.has_our_root = has_root_of(above, space);
  none.is_isolated = plan.isolated;
  for (const pb::FileSystem& system : space.file_systems()) {
    NewFileSystem& made = none.file_systems.emplace_back();
    made = {system.type(), system.source(), options_inside(system, numbers), {}};
    if (const auto overlay = overlays.find(system.device()); overlay != overlays.end())
      made.made = &overlay->second;
    if (!system.entries().empty())
      made.fill = [&snapshot, &system, numbers](const Fd& root) {
        return restore_file_tree(snapshot, system, numbers, root);
      };
  }
  MountParts parts{.first = none, .later = {}};
  for (const pb::Mount& mount : space.mounts()) {
    const uint64_t pids = pids_below(snapshot, space, mount);
    MountTree& tree = pids ? parts.later.try_emplace(pids, none).first->second : parts.first;
    tree.mounts.push_back({info_of(space, mount), source_of(above, space, mount),
                           mount.file_system(), is_on_itself(space, mount)});
  }
  return parts;
}

PeerGroups peers_in(const pb::NamespaceState& space, const Fd& root) {
  PeerGroups groups;
  for (const pb::Mount& mount : space.mounts()) {
    if (!mount.shared() || mount_of(space, mount.point()) != &mount) continue;
    Fd found(::openat(root.get(), relative(mount.point()).c_str(), O_PATH | O_CLOEXEC));
    if (found.valid()) groups.try_emplace(mount.shared(), std::move(found));
  }
  return groups;
}

const pb::NamespaceState* own_mounts(const Snapshot& snapshot) {
  const pb::NamespaceState* space = own_namespace(snapshot, snapshot.root(), "mnt");
  return space && space->mounts_size() ? space : nullptr;
}

const pb::NamespaceState* mounts_of(const Snapshot& snapshot, const pb::Process& process) {
  if (namespace_in(process.namespaces(), "mnt") ==
      namespace_in(snapshot.root().namespaces(), "mnt"))
    return own_mounts(snapshot);
  return own_namespace(snapshot, process, "mnt");
}

const pb::NamespaceState* mounts_of(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  for (const pb::NamespaceState& space : snapshot.record().spaces())
    if (std::ranges::count(space.mounts(), descriptor.mount_id(), &pb::Mount::id)) return &space;
  return own_mounts(snapshot);
}

const pb::NamespaceState* planned_mounts(const Snapshot& snapshot, const RestorePlan& plan,
                                         const pb::Process& process) {
  return plan.mount_spaces.empty() ? plan.mounts : mounts_of(snapshot, process);
}
const pb::NamespaceState* planned_mounts(const Snapshot& snapshot, const RestorePlan& plan,
                                         const pb::Descriptor& descriptor) {
  return plan.mount_spaces.empty() ? plan.mounts : mounts_of(snapshot, descriptor);
}

bool is_below(const Snapshot& snapshot, const pb::NamespaceState* mounts) {
  return mounts && mounts->inode() != namespace_in(snapshot.root().namespaces(), "mnt");
}

std::optional<std::string> path_outside(const pb::NamespaceState* space, const std::string& path) {
  const pb::Mount* mount = space && path.starts_with('/') ? mount_of(*space, path) : nullptr;
  if (!mount) return path;
  const std::string rest(below(path, mount->point()));
  if (!mount->outside().empty()) return joined(mount->outside(), rest);
  struct stat status {};
  for (const std::string& layer : overlay_of(system_of(*space, *mount)).layers()) {
    const std::string inside = joined(layer, joined(mount->root(), rest));
    if (::lstat(inside.c_str(), &status) == 0) return inside;
  }
  return std::nullopt;
}

std::optional<std::string> path_above(const RestorePlan& plan, const pb::NamespaceState& space,
                                      const std::string& path) {
  const pb::Mount* mount = path.starts_with('/') ? mount_of(space, path) : nullptr;
  const std::string source = mount ? source_of(plan.mounts, space, *mount) : "";
  if (source.empty()) return std::nullopt;
  return joined(source, below(path, mount->point()));
}

// What the kernel will show there is about what it shows here, wherever that is mounted there.
static std::string shown_here(const pb::FileSystem& system, const std::string& inside,
                              const std::string& path) {
  constexpr std::pair<std::string_view, std::string_view> kPlaces[] = {{"proc", "/proc"},
                                                                       {"sysfs", "/sys"}};
  for (const auto& [type, place] : kPlaces)
    if (system.type() == type) return joined(place, inside == "/" ? "" : inside);
  return path;
}

int stat_for_tree(const pb::NamespaceState* space, const std::string& path, struct stat& status,
                  bool follow) {
  const int how = follow ? 0 : AT_SYMLINK_NOFOLLOW;
  if (const auto outside = path_outside(space, path))
    return ::fstatat(AT_FDCWD, outside->c_str(), &status, how);
  const pb::Mount& mount = *mount_of(*space, path);
  const pb::FileSystem& system = system_of(*space, mount);
  status = {};
  status.st_mode = S_IFDIR | 0755;
  if (path == mount.point() && kind_of(system.type()) != FileSystemKind::kMemory) return 0;
  const std::string inside = joined(mount.root(), below(path, mount.point()));
  if (kind_of(system.type()) != FileSystemKind::kMemory)
    return ::fstatat(AT_FDCWD, shown_here(system, inside, path).c_str(), &status, how);
  const pb::FileEntry* entry = entry_at(system, inside);
  errno = ENOENT;
  if (!entry) return -1;
  constexpr int64_t kSecond = 1'000'000'000;
  status.st_mode = entry->mode();
  status.st_size = static_cast<off_t>(entry->size());
  status.st_mtim = {entry->mtime_ns() / kSecond, entry->mtime_ns() % kSecond};
  return 0;
}

}  // namespace snapgdb
