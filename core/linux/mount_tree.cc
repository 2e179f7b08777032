#include "core/linux/mount_tree.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/helper_process.h"
#include "core/linux/mounting.h"
#include "core/linux/namespaces.h"
#include "core/linux/overlay.h"
#include "core/linux/sandbox.h"

namespace snapgdb {
namespace {

constexpr uint64_t kAllAttributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
                                    MOUNT_ATTR_NOEXEC | MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME |
                                    MOUNT_ATTR_NOSYMFOLLOW;
constexpr unsigned kSetGroup = 0x100;  // MOVE_MOUNT_SET_GROUP, Linux 5.15

class Maker {
 public:
  explicit Maker(const MountTree& tree)
      : tree_(tree),
        made_(tree.file_systems.size()),
        attached_(tree.mounts.size()),
        parts_(tree.mounts.size()) {}

  // To mounts that are there. A proc cannot be made in a mount namespace of a user namespace that
  // has none (mount_too_revealing(), fs/namespace.c).
  std::vector<std::string> add_to(const Fd& mounts) {
    outside_ = Fd(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!outside_.valid()) throw_errno("cannot open /");
    make_file_systems();
    std::vector<Fd> ours = clones_of_outside();
    if (::setns(mounts.get(), CLONE_NEWNS) != 0) throw_errno("cannot enter the tree's mounts");
    for (size_t i = 0; i < ours.size(); ++i)
      attach(i, tree_.mounts[i].what.point, std::move(ours[i]));
    join_groups();
    return std::move(notes_);
  }

  // `proc`: a /proc in which we have a number.
  std::vector<std::string> make(const Fd& proc) {
    // What is ours is reached by these, whatever is mounted over it.
    outside_ = Fd(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    self_ = Fd(::openat(proc.get(), "thread-self", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!outside_.valid() || !self_.valid()) throw_errno("cannot open / and /proc");
    separate();
    make_file_systems();
    if (tree_.has_our_root)
      adapt();
    else
      build();
    join_groups();
    return std::move(notes_);
  }

  PeerGroups take_groups() { return std::move(groups_); }
  // That which we are in.
  Fd space() const { return Fd(::openat(self_.get(), "ns/mnt", O_RDONLY | O_CLOEXEC)); }

 private:
  void make_file_systems() {
    for (const NewMount& wanted : tree_.mounts)
      if (Fd& whole = made_[wanted.file_system]; wanted.outside.empty() && !whole.valid())
        whole = make_file_system(tree_.file_systems[wanted.file_system]);
    // While nothing is mounted in them, which the way to a part of one would lead into.
    for (size_t i = 0; i < tree_.mounts.size(); ++i)
      if (const NewMount& wanted = tree_.mounts[i]; wanted.outside.empty() && !is_whole(i))
        parts_[i] = open_part(wanted);
  }

  // Of those that are mounted more than once: the first that shows all of it.
  bool is_whole(size_t i) const {
    const auto shows_all = [&](const NewMount& one) {
      return one.outside.empty() && one.what.root == "/" &&
             one.file_system == tree_.mounts[i].file_system;
    };
    return std::ranges::find_if(tree_.mounts, shows_all) - tree_.mounts.begin() ==
           static_cast<ptrdiff_t>(i);
  }

  // Of one that is not mounted yet: Linux 6.15.
  Fd open_part(const NewMount& wanted) {
    const std::string path = wanted.what.root == "/" ? "" : wanted.what.root.substr(1);
    return Fd(::open_tree(made_[wanted.file_system].get(), path.c_str(),
                          OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH));
  }

  // Slaves of what is outside hear of mounts there (mount_namespaces(7)), and others do not.
  void separate() {
    const auto is_slave = [](const NewMount& wanted) { return wanted.what.master != 0; };
    hears_ = !tree_.is_isolated && std::ranges::any_of(tree_.mounts, is_slave);
    if (::mount("none", "/", nullptr, MS_REC | (hears_ ? MS_SLAVE : MS_PRIVATE), nullptr) != 0)
      throw_errno("cannot separate the tree's mounts from ours");
  }

  std::vector<MountInfo> own_mounts() const {
    Fd file(::openat(self_.get(), "mountinfo", O_RDONLY | O_CLOEXEC));
    if (!file.valid()) throw_errno("cannot read our mounts");
    std::string text, block(65536, '\0');
    ssize_t n = 0;
    while ((n = ::read(file.get(), block.data(), block.size())) > 0)
      text.append(block, 0, static_cast<size_t>(n));
    return parse_mount_info(text);
  }

  // ---- From what there is -----------------------------------------------------------------------

  // It shows the same at the same place: whether as a mount or not. On one that does not, what is
  // outside is hidden.
  bool is_as_outside(size_t i) const {
    const MountInfo& what = tree_.mounts[i].what;
    if (tree_.mounts[i].outside != what.point) return false;
    const auto earlier = std::span(tree_.mounts).first(i);
    const auto on = std::ranges::find(earlier, what.parent,
                                      [](const NewMount& other) { return other.what.id; });
    return on == earlier.end() || is_as_outside(static_cast<size_t>(on - earlier.begin()));
  }

  bool is_wanted(const MountInfo& mount) const {
    for (size_t i = 0; i < tree_.mounts.size(); ++i)
      if (tree_.mounts[i].what.point == mount.point && is_as_outside(i)) return true;
    return false;
  }

  void adapt() {
    const std::vector<MountInfo> there = own_mounts();
    std::vector<Fd> ours = clones_of_outside(true);  // while that is mounted still
    for (auto mount = there.rbegin(); mount != there.rend() && !tree_.is_isolated; ++mount)
      if (mount->point != "/" && !is_wanted(*mount)) unmount(*mount);
    for (size_t i = 0; i < tree_.mounts.size(); ++i) {
      const NewMount& wanted = tree_.mounts[i];
      const std::string& point = wanted.what.point;
      const MountInfo* same = mount_at(there, point);
      const bool is_mounted = same && same->point == point;
      if (!is_as_outside(i))
        attach(i, point, std::move(ours[i]));
      else if (is_mounted && is_uppermost(i))
        restrict(wanted, same->attributes);
      else if (!is_mounted && wanted.is_on_itself)  // with what is mounted below
        attach(i, point, open_outside(wanted, AT_RECURSIVE));
    }
  }

  // Of several at the same point: the one that is seen there.
  bool is_uppermost(size_t i) const {
    return std::none_of(
        tree_.mounts.begin() + static_cast<ptrdiff_t>(i) + 1, tree_.mounts.end(),
        [&](const NewMount& later) { return later.what.point == tree_.mounts[i].what.point; });
  }

  // What hides others, in the mount namespace of an ordinary user, is locked.
  void unmount(const MountInfo& mount) {
    if (::umount2(mount.point.c_str(), MNT_DETACH) != 0)
      notes_.push_back(fmt::format("{} stays mounted, as it is outside: {}", printable(mount.point),
                                   errno_text(errno)));
  }

  void restrict(const NewMount& wanted, uint64_t attributes) {
    constexpr uint64_t kRestrictions =
        MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    mount_attr more{};
    more.attr_set = wanted.what.attributes & ~attributes & kRestrictions;
    if (more.attr_set &&
        ::mount_setattr(AT_FDCWD, wanted.what.point.c_str(), 0, &more, sizeof more) != 0)
      note_otherwise(wanted);
  }

  // ---- Anew -------------------------------------------------------------------------------------

  // pivot_root(2), "pivot_root(".", ".")": the old root lies over the new one for a moment.
  // What is ours is opened before the stage hides some of it.
  void build() {
    std::vector<Fd> ours = clones_of_outside();
    for (size_t i = 0; i < ours.size(); ++i) {
      const std::string& point = tree_.mounts[i].what.point;
      attach(i, point == "/" ? kStage : kStage + point, std::move(ours[i]));
    }
    if (::chdir(kStage.c_str()) != 0 || ::syscall(SYS_pivot_root, ".", ".") != 0 ||
        ::umount2(".", MNT_DETACH) != 0 || ::chdir("/") != 0)
      throw_errno("cannot enter the tree's mounts");
  }

  std::vector<Fd> clones_of_outside(bool but_not_there = false) {
    std::vector<Fd> clones;
    for (size_t i = 0; i < tree_.mounts.size(); ++i) {
      const bool is_made = tree_.mounts[i].outside.empty();
      clones.push_back(
          is_made || (but_not_there && is_as_outside(i)) ? Fd() : open_outside(tree_.mounts[i]));
    }
    return clones;
  }

  void attach(size_t i, const std::string& target, Fd mount) {
    const NewMount& wanted = tree_.mounts[i];
    if (came_along(wanted, target)) return;
    if (!mount.valid()) mount = open_new(i);
    set_attributes(mount, wanted);
    if (::move_mount(mount.get(), "", AT_FDCWD, target.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0)
      throw_errno("cannot mount {} at {}", printable(tree_.file_systems[wanted.file_system].type),
                  printable(target));
    const std::string& type = tree_.file_systems[wanted.file_system].type;
    if (type == "proc" && tree_.is_isolated) Sandbox::protect_settings(target);
    if (type == "sysfs" && tree_.is_isolated) make_unchanging(target);
    attached_[i] = std::move(mount);
  }

  // With one that cannot be had without those on it.
  bool came_along(const NewMount& wanted, const std::string& target) {
    if (wanted.outside.empty() || !has_recursive_) return false;
    const std::vector<MountInfo> there = own_mounts();
    const auto found = std::ranges::find_if(there, [&](const MountInfo& mount) {
      return mount.device == wanted.what.device && mount.root == wanted.what.root &&
             mount.point == target;
    });
    return found != there.end();
  }

  Fd open_outside(const NewMount& wanted, unsigned how = 0) {
    const std::string path = wanted.outside == "/" ? "." : wanted.outside.substr(1);
    constexpr unsigned kFlags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    Fd mount(::open_tree(outside_.get(), path.c_str(), kFlags | how));
    // An ordinary user may not see what is below a mount that others have made.
    if (!mount.valid() && errno == EINVAL) {
      mount = Fd(::open_tree(outside_.get(), path.c_str(), kFlags | AT_RECURSIVE));
      has_recursive_ = true;
    }
    if (!mount.valid()) throw_errno("cannot show {} in the tree", printable(wanted.outside));
    return mount;
  }

  Fd open_new(size_t i) {
    const NewMount& wanted = tree_.mounts[i];
    if (is_whole(i)) return duplicate(made_[wanted.file_system]);
    Fd mount = parts_[i].valid() ? std::move(parts_[i]) : open_part(wanted);
    if (!mount.valid())
      throw_errno("cannot mount {} of a {}", printable(wanted.what.root),
                  tree_.file_systems[wanted.file_system].type);
    return mount;
  }

  static Fd duplicate(const Fd& file) {
    Fd same(::fcntl(file.get(), F_DUPFD_CLOEXEC, 0));
    if (!same.valid()) throw_errno("cannot duplicate a descriptor");
    return same;
  }

  Fd make_file_system(const NewFileSystem& system) {
    if (system.made) return duplicate(*system.made);
    if (system.type == "overlay")
      return make_overlay(system.source, parse_overlay_options(system.options));
    const std::string tried = fmt::format("cannot make a {}", printable(system.type));
    const Fd context(::fsopen(system.type.c_str(), FSOPEN_CLOEXEC));
    if (!context.valid()) throw_errno("{}", tried);
    if (!system.source.empty())
      ::fsconfig(context.get(), FSCONFIG_SET_STRING, "source", system.source.c_str(), 0);
    for (const auto& [key, value] : settings_in(system)) {
      const int done =
          value ? ::fsconfig(context.get(), FSCONFIG_SET_STRING, key.c_str(), value->c_str(), 0)
                : ::fsconfig(context.get(), FSCONFIG_SET_FLAG, key.c_str(), nullptr, 0);
      if (done != 0) throw_errno("{} with {}", tried, printable(key));
    }
    if (::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
      throw_errno("{}", tried);
    Fd mount(::fsmount(context.get(), FSMOUNT_CLOEXEC, 0));
    if (!mount.valid()) throw_errno("{}", tried);
    if (system.fill) std::ranges::copy(system.fill(mount), std::back_inserter(notes_));
    return mount;
  }

  // "rw" and "ro" are for the file system as a whole; it is filled first.
  static std::vector<std::pair<std::string, std::optional<std::string>>> settings_in(
      const NewFileSystem& system) {
    std::vector<std::pair<std::string, std::optional<std::string>>> settings;
    constexpr std::string_view kTaken[] = {"size",   "nr_blocks", "nr_inodes", "mode",
                                           "uid",    "gid",       "huge",      "hidepid",
                                           "subset", "ptmxmode",  "max"};
    for (const std::string_view word : split(system.options, ',')) {
      const size_t sign = word.find('=');
      const std::string key(word.substr(0, sign));
      const bool is_taken = std::ranges::count(kTaken, key) > 0 ||
                            (system.type == "tmpfs" && (key == "inode64" || key == "noswap"));
      if (!is_taken) continue;
      settings.emplace_back(key, sign == word.npos
                                     ? std::nullopt
                                     : std::optional(std::string(word.substr(sign + 1))));
    }
    return settings;
  }

  // What a mount of others forbids, an ordinary user cannot allow.
  void set_attributes(const Fd& mount, const NewMount& wanted) {
    mount_attr attributes{};
    attributes.attr_set = wanted.what.attributes;
    attributes.attr_clr = kAllAttributes & ~(wanted.what.attributes & ~uint64_t{MOUNT_ATTR__ATIME});
    // What the sandbox shows read-only stays so.
    if (tree_.is_isolated && !wanted.outside.empty())
      attributes.attr_clr &= ~uint64_t{MOUNT_ATTR_RDONLY};
    const auto set = [&] {
      return ::mount_setattr(mount.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) == 0;
    };
    if (set()) return;
    attributes.attr_set &= ~uint64_t{MOUNT_ATTR__ATIME}, attributes.attr_clr = 0;
    if (!set()) note_otherwise(wanted);
  }

  void note_otherwise(const NewMount& wanted) {
    notes_.push_back(fmt::format("{} is mounted otherwise than it was: {}",
                                 printable(wanted.what.point), errno_text(errno)));
  }

  // ---- Propagation (mount_namespaces(7)) --------------------------------------------------------

  // Of a mount, when all are there: until then nothing must spread. What hears of others (a slave)
  // comes after these, which may hear of others themselves.
  void join_groups() {
    std::vector<size_t> waiting;
    for (size_t i = 0; i < tree_.mounts.size(); ++i) {
      const MountInfo& what = tree_.mounts[i].what;
      if (hears_ && !what.master) set_propagation(i, MS_PRIVATE);
      if (what.shared || what.master) waiting.push_back(i);
      if (what.unbindable) set_propagation(i, MS_UNBINDABLE);
    }
    // A group is passed on to a mount of the same directory, or of one below it (do_set_group(),
    // fs/namespace.c).
    std::ranges::stable_sort(waiting, {},
                             [this](size_t i) { return tree_.mounts[i].what.root.size(); });
    while (!waiting.empty()) {
      if (std::erase_if(waiting, [this](size_t i) { return join(i); }) > 0) continue;
      begin_group(waiting.front());  // what it heard of is in no namespace of these
      waiting.erase(waiting.begin());
    }
  }

  bool join(size_t i) {
    const MountInfo& what = tree_.mounts[i].what;
    if (const Fd* peer = what.shared ? find_group(what.shared) : nullptr) {
      copy_group(*peer, i);  // and whatever that hears of
      return true;
    }
    const Fd* master = what.master ? find_group(what.master) : nullptr;
    if (what.master && !master) return false;
    if (master) {
      copy_group(*master, i);
      set_propagation(i, MS_SLAVE);
    }
    begin_group(i);
    return true;
  }

  void begin_group(size_t i) {
    const MountInfo& what = tree_.mounts[i].what;
    if (!what.shared) return;
    set_propagation(i, MS_SHARED);
    groups_.emplace(what.shared, duplicate(attached(i)));
  }

  const Fd* find_group(uint32_t group) const {
    for (const PeerGroups* groups : {&groups_, tree_.others})
      if (groups && groups->contains(group)) return &groups->at(group);
    return nullptr;
  }

  // Others may be mounted on it: not by its path, unless it was there.
  const Fd& attached(size_t i) {
    if (!attached_[i].valid())
      attached_[i] = Fd(::open(tree_.mounts[i].what.point.c_str(), O_PATH | O_CLOEXEC));
    return attached_[i];
  }

  void copy_group(const Fd& from, size_t to) {
    constexpr unsigned kFlags = kSetGroup | MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    if (hears_) set_propagation(to, MS_PRIVATE);  // no slave is let in
    if (::move_mount(from.get(), "", attached(to).get(), "", kFlags) != 0)
      notes_.push_back(
          fmt::format("what is mounted at {}, and at its peers, does not spread as "
                      "it did: {}",
                      printable(tree_.mounts[to].what.point), errno_text(errno)));
  }

  void set_propagation(size_t i, uint64_t how) {
    mount_attr attributes{};
    attributes.propagation = how;
    if (::mount_setattr(attached(i).get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0)
      notes_.push_back(fmt::format("mounts do not spread at {} as they did: {}",
                                   printable(tree_.mounts[i].what.point), errno_text(errno)));
  }

  const MountTree& tree_;
  Fd outside_, self_;
  std::vector<Fd> made_;      // of file_systems
  std::vector<Fd> attached_;  // of mounts
  PeerGroups groups_;         // begun here
  std::vector<Fd> parts_;     // of mounts: of those that show a part, or are not the first
  bool has_recursive_ = false;
  bool hears_ = false;  // of what is mounted outside
  std::vector<std::string> notes_;
};

Fd open_proc() {
  Fd proc(::open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!proc.valid()) throw_errno("cannot open /proc");
  return proc;
}

}  // namespace

std::vector<std::string> make_mounts(const MountTree& tree) {
  return Maker(tree).make(open_proc());
}

namespace {

// By the kernel's own calls: the C library would have all threads do it, of whom we have the
// memory.
bool become(uint32_t user, uint32_t group) {
  return ::syscall(SYS_setresgid, group, group, group) == 0 &&
         ::syscall(SYS_setresuid, user, user, user) == 0;
}

bool is_ours(const Fd& space, const char* name) {
  struct stat ours {};
  return ::stat(fmt::format("/proc/self/ns/{}", name).c_str(), &ours) == 0 &&
         ours.st_ino == inode_of(space);
}

// In these namespaces, but for that of the owner.
void at_place(const MountPlace& place, const std::function<void()>& work) {
  std::vector<std::pair<const Fd*, int>> others;  // than ours: that, too, would take rights there
  for (const auto& [space, name] : {std::pair{&place.network, "net"}, {&place.ipc, "ipc"}})
    if (!is_ours(*space, name)) others.emplace_back(space, namespace_flag(name));
  others.emplace_back(&place.pids, CLONE_NEWPID);
  in_namespace(place.mounts, "mnt", [&] {
    for (const auto& [space, kind] : others)
      if (::setns(space->get(), kind) != 0) throw_errno("cannot enter a namespace of the tree");
    in_helper_process(work, HelperDescriptors::kOurs);  // only children enter one of pids
  });
}

}  // namespace

MadeMounts make_mount_namespace(const MountPlace& place, const MountTree& tree) {
  MadeMounts made;
  // Where the work is done, /proc may be that of another pid namespace, in which we have no number.
  const Fd proc = open_proc();
  at_place(place, [&] {
    const Fd user(::openat(proc.get(), "thread-self/ns/user", O_RDONLY | O_CLOEXEC));
    if (!user.valid()) throw_errno("cannot open /proc/thread-self/ns/user");
    // Whoever is unknown there can make no files; rights stay (cap_emulate_setxuid(),
    // security/commoncap.c).
    if (inode_of(user) != inode_of(place.owner) &&
        (::setns(place.owner.get(), CLONE_NEWUSER) != 0 || !become(place.user, place.group)))
      throw_errno("cannot enter a user namespace of the tree");
    if (::unshare(CLONE_NEWNS) != 0) throw_errno("cannot make a mount namespace");
    Maker maker(tree);
    made.notes = maker.make(proc);
    made.groups = maker.take_groups();
    made.space = maker.space();
    if (!made.space.valid()) throw_errno("cannot hold a mount namespace");
  });
  return made;
}

std::vector<std::string> add_mounts(const MountPlace& place, const Fd& mounts,
                                    const MountTree& tree) {
  std::vector<std::string> notes;
  at_place(place, [&] { notes = Maker(tree).add_to(mounts); });
  return notes;
}

}  // namespace snapgdb
