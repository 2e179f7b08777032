// The mounts of a namespace of the tree's own: which there are, where they come from, and what is
// in those that nobody else has.

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
#include "core/resource/mount_records.h"
#include "core/resource/mounts.h"
#include "core/resource/namespaces.h"
#include "core/resource/resource.h"

namespace snapgdb {
namespace {

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
    const bool is_its_own = outside.empty() && kind_of(mount.type) == FileSystemKind::kMemory;
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
    if (kind_of(system.type()) != FileSystemKind::kMemory) return;
    const auto info = std::ranges::find(theirs_, mount.id(), &MountInfo::id);
    try {
      if (mount.root().ends_with(kRemovedRoot))
        throw Error("", "what was mounted has been removed");
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

}  // namespace

void capture_mounts(CaptureContext& context, const FrozenProcess& frozen, pb::NamespaceState& out) {
  MountCapture(context, frozen, out).capture();
}

}  // namespace snapgdb
