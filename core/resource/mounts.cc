// A mount namespace of the tree's own: which mounts there are, where they come from, and what is in
// those that nobody else has.

#include "core/resource/mounts.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/mount_info.h"
#include "core/linux/namespaces.h"
#include "core/linux/procfs.h"
#include "core/resource/file_tree.h"
#include "core/resource/namespaces.h"
#include "core/resource/resource.h"
#include "core/resource/restorer.h"

namespace snapgdb {
namespace {

// ---- Kinds of file systems ----------------------------------------------------------------------

enum class Kind {
  kMemory,  // what it holds is in the image
  kKernel,  // holds what the kernel shows
  kLayers,  // holds nothing itself: its layers are directories
  kOther    // nobody can tell what it holds, if it is not mounted outside
};

Kind kind_of(std::string_view type) {
  constexpr std::string_view kKernel[] = {"proc",    "sysfs",     "devpts",   "mqueue",
                                          "cgroup2", "debugfs",   "tracefs",  "securityfs",
                                          "bpf",     "hugetlbfs", "configfs", "fusectl"};
  if (type == "tmpfs" || type == "ramfs") return Kind::kMemory;
  if (type == "overlay") return Kind::kLayers;
  return std::ranges::count(kKernel, type) ? Kind::kKernel : Kind::kOther;
}

constexpr std::string_view kRemoved = "//deleted";

// To the root directory.
std::string relative(const std::string& path) {
  return path == "/" ? "." : path.substr(1);
}

// ---- Capture ------------------------------------------------------------------------------------

class MountCapture {
 public:
  MountCapture(CaptureContext& context, const FrozenProcess& frozen, pb::NamespaceState& out)
      : context_(context),
        frozen_(frozen),
        out_(out),
        ours_(parse_mount_info(ProcDirectory::of(Pid{::getpid()}).read("mountinfo"))),
        theirs_(parse_mount_info(frozen.task_proc.read("mountinfo"))),
        root_(frozen.task_proc.open("root", O_PATH | O_DIRECTORY | O_CLOEXEC)),
        above_(frozen.task_proc.link("root")) {
    if (!root_.valid()) throw_errno("cannot open its root directory");
  }

  void capture() {
    for (const MountInfo& mount : theirs_) add(mount);
    // As a whole before parts of it.
    std::vector<const pb::Mount*> by_root;
    for (const pb::Mount& mount : out_.mounts()) by_root.push_back(&mount);
    std::ranges::stable_sort(by_root, {},
                             [](const pb::Mount* mount) { return mount->root().size(); });
    for (const pb::Mount* mount : by_root)
      if (mount->outside().empty()) add_content(*mount);
  }

 private:
  // Nothing leads to it, or to what is mounted on it; not before that is unmounted, at least, and
  // then to what is there outside, too.
  bool is_hidden(const MountInfo& mount, const std::string& outside) {
    const bool is_parent = std::ranges::count(theirs_, mount.id, &MountInfo::parent) > 0;
    if (is_on_top(theirs_, mount) || is_parent || outside == mount.point) return false;
    const bool is_its_own = outside.empty() && kind_of(mount.type) == Kind::kMemory;
    return !is_its_own || !can_be_uncovered(mount);
  }

  // Where the cover is locked, nobody of the tree can. What it takes is kept for its content.
  bool can_be_uncovered(const MountInfo& mount) {
    try {
      tops_.insert_or_assign(mount.id, uncovered(joined(above_, mount.point), mount, true));
      return true;
    } catch (const Error&) {
      return false;
    }
  }

  void add(const MountInfo& mount) {
    const std::string outside = outside_of(mount);
    if (is_hidden(mount, outside)) return;
    pb::Mount& out = *out_.add_mounts();
    out.set_id(mount.id);
    out.set_parent(mount.parent);
    out.set_file_system(file_system_of(mount));
    out.set_root(mount.root);
    out.set_point(joined(above_, mount.point == "/" ? "" : mount.point));
    out.set_attributes(mount.attributes);
    out.set_shared(mount.shared);
    out.set_master(mount.master);
    out.set_unbindable(mount.unbindable);
    out.set_outside(outside);
  }

  uint32_t file_system_of(const MountInfo& mount) {
    const auto [known, is_new] =
        file_systems_.try_emplace(mount.device, static_cast<uint32_t>(out_.file_systems_size()));
    if (!is_new) return known->second;
    pb::FileSystem& system = *out_.add_file_systems();
    system.set_device(mount.device);
    system.set_type(mount.type);
    system.set_source(mount.source);
    system.set_options(mount.options);
    if (mount.type == "proc") system.set_pid_namespace(pids_shown_by(mount));
    return known->second;
  }

  // By that of the process that is number 1 there.
  uint64_t pids_shown_by(const MountInfo& mount) const {
    if (mount.root != "/" || !is_on_top(theirs_, mount)) return 0;
    const std::string first = relative(mount.point) + "/1/ns/pid";
    struct stat status {};
    return ::fstatat(root_.get(), first.c_str(), &status, 0) == 0 ? status.st_ino : 0;
  }

  // Where we find the same, on one of our mounts of that file system.
  std::string outside_of(const MountInfo& mount) const {
    // Of what is hidden it does not matter, as long as it is hidden there, too.
    const auto is_same = [&](const MountInfo& ours) {
      return ours.device == mount.device && ours.root == mount.root && ours.point == mount.point;
    };
    if (!is_on_top(theirs_, mount) && std::ranges::any_of(ours_, is_same)) return mount.point;
    for (const MountInfo& ours : ours_) {
      if (ours.device != mount.device || !is_at_or_below(mount.root, ours.root)) continue;
      const std::string path = joined(ours.point, below(mount.root, ours.root));
      if (mount_at(ours_, path) == &ours && shows_the_same(mount, path)) return path;
    }
    return "";
  }

  // As far as can be told: of what others are mounted on, nothing.
  bool shows_the_same(const MountInfo& mount, const std::string& path) const {
    struct stat here {
    }, there{};
    if (::stat(path.c_str(), &here) != 0) return false;
    if (!is_on_top(theirs_, mount)) return true;
    return ::fstatat(root_.get(), relative(mount.point).c_str(), &there, 0) != 0 ||
           (here.st_dev == there.st_dev && here.st_ino == there.st_ino);
  }

  void add_content(const pb::Mount& mount) {
    pb::FileSystem& system = *out_.mutable_file_systems(static_cast<int>(mount.file_system()));
    if (kind_of(system.type()) != Kind::kMemory) return;
    const auto info = std::ranges::find(theirs_, mount.id(), &MountInfo::id);
    try {
      if (mount.root().ends_with(kRemoved)) throw Error("", "what was mounted has been removed");
      const Fd top = top_of(mount, *info, system.type());
      if (!top.valid()) throw_errno("cannot open it");
      capture_file_tree(context_.nameless, top, mount.root(), system);
    } catch (const Error& error) {
      system.set_why_incomplete(error.why());
      context_.lacks(frozen_.pid, {},
                     fmt::format("content of the {} at {}", system.type(), mount.point()),
                     error.why());
    }
  }

  Fd top_of(const pb::Mount& mount, const MountInfo& info, const std::string& type) {
    if (auto known = tops_.extract(info.id)) return std::move(known.mapped());
    const bool has_covers = std::ranges::count(theirs_, info.id, &MountInfo::parent) > 0;
    const bool is_covered = !is_on_top(theirs_, info);
    try {
      if (has_covers || is_covered) return uncovered(mount.point(), info, is_covered);
    } catch (const SystemError& error) {  // what is mounted in it may be locked there
      if (is_covered) throw;
      context_.lacks(frozen_.pid, {},
                     fmt::format("what mounts hide of the {} at {}", type, mount.point()),
                     error.why());
    }
    return Fd(::openat(root_.get(), relative(info.point).c_str(), O_PATH | O_CLOEXEC));
  }

  // A clone of it without what is mounted in it, and on it: whatever files are below that is in
  // sight there. For the latter, those are taken away in a copy of their mounts.
  Fd uncovered(const std::string& point, const MountInfo& info, bool is_covered) const {
    const Fd space = frozen_.task_proc.open("ns/mnt", O_RDONLY | O_CLOEXEC);
    Fd clone;
    in_namespace(space, "mnt", [&] {
      if (is_covered) uncover(space, point, info);
      clone = Fd(::open_tree(AT_FDCWD, point.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
      if (!clone.valid()) throw_errno("cannot clone the mount at {}", printable(point));
    });
    struct stat status {};
    if (::fstat(clone.get(), &status) != 0 || status.st_dev != info.device)
      throw Error("", "something else is mounted on it, and cannot be taken away");
    return clone;
  }

  // In a copy that belongs to another user namespace, they would be locked (mount_namespaces(7)).
  // The latest first.
  void uncover(const Fd& space, const std::string& point, const MountInfo& info) const {
    ::setns(owner_of(space).get(), CLONE_NEWUSER);  // EINVAL: we are in that one
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
      throw_errno("cannot copy the mounts of the tree");
    for (size_t i = theirs_.size(); i-- > 0 && !is_at(point, info);)
      if (theirs_[i].id != info.id && is_at_or_below(info.point, theirs_[i].point))
        ::umount2(joined(above_, theirs_[i].point).c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
  }
  static bool is_at(const std::string& point, const MountInfo& info) {
    struct stat status {};
    return ::stat(point.c_str(), &status) == 0 && status.st_dev == info.device;
  }

  CaptureContext& context_;
  const FrozenProcess& frozen_;
  pb::NamespaceState& out_;
  const std::vector<MountInfo> ours_, theirs_;
  const Fd root_;
  const std::string above_;  // its root directory, if that is not the namespace's
  std::map<uint64_t, uint32_t> file_systems_;
  std::map<int32_t, Fd> tops_;  // by mount, of those that were uncovered already
};

// ---- The plan of a restore ----------------------------------------------------------------------

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

// Of an overlay, in its options: the uppermost first.
std::vector<std::string> layers_of(const pb::FileSystem& system) {
  std::vector<std::string> layers;
  if (kind_of(system.type()) != Kind::kLayers) return layers;
  for (const std::string_view option : split(system.options(), ',')) {
    const size_t sign = option.find('=');
    const std::string_view key = option.substr(0, sign);
    if (sign == option.npos || !key.ends_with("dir") || key == "redirect_dir") continue;
    for (const std::string_view layer : split(option.substr(sign + 1), ':'))
      if (!layer.empty())
        layers.insert(key == "upperdir" ? layers.begin() : layers.end(), std::string(layer));
  }
  return layers;
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

// "" if it can be had.
std::string why_lost(const pb::NamespaceState* above, const pb::NamespaceState& space,
                     const pb::Mount& mount) {
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
  if (mount.root().ends_with(kRemoved)) return "what was mounted has been removed since";
  switch (kind_of(system.type())) {
    case Kind::kMemory:
      return system.why_incomplete();
    case Kind::kKernel:
      return mount.root() == "/" || system.type() == "proc" ? "" : "it is a part of one";
    case Kind::kLayers:
      for (const std::string& layer : layers_of(system))
        if (::stat(layer.c_str(), &status) != 0)
          return fmt::format("its layer {} is not there", printable(layer));
      return "";
    case Kind::kOther:
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

}  // namespace

void capture_mounts(CaptureContext& context, const FrozenProcess& frozen, pb::NamespaceState& out) {
  MountCapture(context, frozen, out).capture();
}

namespace {

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

}  // namespace

void plan_mounts(const Snapshot& snapshot, RestorePlan& plan) {
  const auto object = [&](int32_t who, const pb::Mount& mount, const std::string& why) {
    if (!why.empty())
      plan.obstacles.push_back({who, fmt::format("what is mounted at {}", printable(mount.point())),
                                why, "--without mounts: the tree sees the mounts that are here"});
  };
  if (plan.mounts)
    for (const pb::Mount& mount : plan.mounts->mounts())
      object(snapshot.root().pid(), mount, why_lost(nullptr, *plan.mounts, mount));
  for (const auto& [space, member] : plan.mount_spaces)
    for (const pb::Mount& mount : space->mounts()) {
      const std::string why = why_lost(plan.mounts, *space, mount);
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

MountParts mounts_for(const Snapshot& snapshot, const RestorePlan& plan,
                      const pb::NamespaceState& space, const UserNumbers& numbers) {
  const pb::NamespaceState* above = is_below(snapshot, &space) ? plan.mounts : nullptr;
  MountTree none;
  none.has_our_root = has_root_of(above, space);
  none.is_isolated = plan.isolated;
  for (const pb::FileSystem& system : space.file_systems()) {
    NewFileSystem& made = none.file_systems.emplace_back();
    made = {system.type(), system.source(), options_inside(system, numbers), {}};
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
  for (const std::string& layer : layers_of(system_of(*space, *mount))) {
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
  if (path == mount.point() && kind_of(system.type()) != Kind::kMemory) return 0;
  const std::string inside = joined(mount.root(), below(path, mount.point()));
  if (kind_of(system.type()) != Kind::kMemory)
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
