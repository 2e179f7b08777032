#include "core/resource/file_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/mapped_file.h"
#include "core/linux/mount_info.h"
#include "core/resource/attributes.h"
#include "core/resource/nameless.h"

namespace snapgdb {
namespace {

// A file of that size goes into its entry; others are kept as those without a name are.
constexpr uint64_t kMaxInEntry = uint64_t{16} << 10;
constexpr int kMaxEntries = 200'000;
constexpr int64_t kSecond = 1'000'000'000;

std::string path_of(const Fd& file) {
  return fmt::format("/proc/self/fd/{}", file.get());
}

int64_t to_ns(const timespec& time) {
  return time.tv_sec * kSecond + time.tv_nsec;
}
timespec to_timespec(int64_t ns) {
  const int64_t rest = (ns % kSecond + kSecond) % kSecond;
  return {(ns - rest) / kSecond, rest};
}

std::string directory_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == 0 ? "/" : path.substr(0, slash);
}

// ---- Capture ------------------------------------------------------------------------------------

class TreeCapture {
 public:
  TreeCapture(NamelessFiles& files, pb::FileSystem& out) : files_(files), out_(out) {
    for (const pb::FileEntry& entry : out.entries()) known_.insert(entry.path());
  }

  void capture(const Fd& top, const std::string& root) {
    struct stat status {};
    if (::fstat(top.get(), &status) != 0) throw_errno("cannot look at {}", printable(root));
    device_ = status.st_dev;
    add_way_to(root);
    const bool is_directory = S_ISDIR(status.st_mode);
    if (is_directory || !known_.contains(root)) add(top, status, root, path_of(top));
    if (is_directory) walk(top, root);
  }

 private:
  // What is above is out of sight.
  void add_way_to(const std::string& root) {
    if (root == "/") return;
    const std::string above = directory_of(root);
    add_way_to(above);
    if (known_.contains(above)) return;
    pb::FileEntry& entry = *out_.add_entries();
    entry.set_path(above);
    entry.set_mode(S_IFDIR | 0755);
    known_.insert(above);
  }

  void walk(const Fd& directory, const std::string& path) {
    const Fd readable(
        ::openat(directory.get(), ".", O_RDONLY | O_DIRECTORY | O_NOATIME | O_CLOEXEC));
    const Fd plain = readable.valid()
                         ? Fd()
                         : Fd(::openat(directory.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const Fd& used = readable.valid() ? readable : plain;
    if (!used.valid()) throw_errno("cannot read {}", printable(path));
    const std::unique_ptr<DIR, int (*)(DIR*)> list(
        ::fdopendir(::fcntl(used.get(), F_DUPFD_CLOEXEC, 0)), ::closedir);
    if (!list) throw_errno("cannot read {}", printable(path));
    while (const dirent* entry = ::readdir(list.get())) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") add_named(used, name, joined(path, "/" + name));
    }
  }

  void add_named(const Fd& directory, const std::string& name, const std::string& path) {
    struct stat status {};
    const Fd file(::openat(directory.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!file.valid() || ::fstat(file.get(), &status) != 0)
      throw_errno("cannot look at {}", printable(path));
    if (status.st_dev != device_) return add_cover(status, path);
    // What /proc has for a descriptor of a link would be followed to where the link leads.
    const std::string place =
        S_ISLNK(status.st_mode) ? path_of(directory) + "/" + name : path_of(file);
    if (!known_.contains(path)) add(file, status, path, place);
    if (S_ISDIR(status.st_mode)) walk(file, path);
  }

  // Something is mounted there.
  void add_cover(const struct stat& status, const std::string& path) {
    if (!known_.insert(path).second) return;
    pb::FileEntry& entry = *out_.add_entries();
    entry.set_path(path);
    entry.set_is_cover(true);
    entry.set_mode(S_ISDIR(status.st_mode) ? S_IFDIR | 0755 : S_IFREG | 0644);
  }

  // `place`: a name that leads to it now.
  void add(const Fd& file, const struct stat& status, const std::string& path,
           const std::string& place) {
    if (!known_.insert(path).second) return;
    if (out_.entries_size() >= kMaxEntries)
      throw Error("", fmt::format("it has more than {} files", kMaxEntries));
    pb::FileEntry& entry = *out_.add_entries();
    entry.set_path(path);
    entry.set_mode(status.st_mode);
    entry.set_owner(status.st_uid);
    entry.set_group(status.st_gid);
    entry.set_atime_ns(to_ns(status.st_atim));
    entry.set_mtime_ns(to_ns(status.st_mtim));
    if (status.st_nlink > 1 && !S_ISDIR(status.st_mode)) {
      const auto [known, is_first] = links_.try_emplace(status.st_ino, path);
      if (!is_first) return entry.set_same_as(known->second);
    }
    // By a name, since the calls that take a descriptor refuse an O_PATH one.
    add_attributes(place, S_ISLNK(entry.mode()), *entry.mutable_attributes());
    if (S_ISLNK(status.st_mode)) entry.set_link(target_of(file, path));
    if (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode)) entry.set_node(status.st_rdev);
    if (S_ISREG(status.st_mode)) add_content(file, status, entry);
  }

  static std::string target_of(const Fd& link, const std::string& path) {
    std::string target(4096, '\0');
    const ssize_t size = ::readlinkat(link.get(), "", target.data(), target.size());
    if (size < 0) throw_errno("cannot read the link {}", printable(path));
    target.resize(static_cast<size_t>(size));
    return target;
  }

  void add_content(const Fd& file, const struct stat& status, pb::FileEntry& entry) {
    entry.set_size(static_cast<uint64_t>(status.st_size));
    if (status.st_size == 0) return;
    const std::string name = path_of(file);
    Fd readable(::open(name.c_str(), O_RDONLY | O_NOATIME | O_CLOEXEC));
    if (!readable.valid()) readable = Fd(::open(name.c_str(), O_RDONLY | O_CLOEXEC));
    if (!readable.valid()) throw_errno("cannot read {}", printable(entry.path()));
    if (entry.size() > kMaxInEntry)
      return entry.set_file(files_.id_for_named(std::move(readable), entry.path()));
    std::vector<std::byte> content(entry.size());
    const size_t n = pread_upto(readable.get(), content, 0, entry.path());
    entry.set_content(content.data(), n);
  }

  NamelessFiles& files_;
  pb::FileSystem& out_;
  dev_t device_ = 0;
  std::set<std::string> known_;
  std::map<ino_t, std::string> links_;
};

// ---- Restore ------------------------------------------------------------------------------------

class TreeRestore {
 public:
  TreeRestore(const Snapshot& snapshot, const UserNumbers& numbers, const Fd& root)
      : snapshot_(snapshot), numbers_(numbers), root_(root) {}

  void make(const pb::FileEntry& entry) {
    const std::string name = go_to(entry);
    if (left_out_.contains(entry.path()) || left_out_.contains(entry.same_as())) return;
    if (!entry.same_as().empty()) return link(entry, name);
    if (!make_node(entry, name)) return leave_out(entry);
    if (is_known(entry)) set_rights(entry, name);
  }
  std::vector<std::string> take_notes() {
    for (const auto& [attribute, lack] : lacks_)
      notes_.push_back(
          fmt::format("the attribute {} of {}{}, in a file system in memory, is not there: {}",
                      printable(attribute), printable(lack.path),
                      lack.others ? fmt::format(" (and {} more)", lack.others) : "", lack.why));
    return std::move(notes_);
  }

  // Last of all, for directories: what is made in them changes them.
  void set_times(const pb::FileEntry& entry) {
    if (!is_known(entry) || !entry.same_as().empty() || left_out_.contains(entry.path())) return;
    const timespec times[] = {to_timespec(entry.atime_ns()), to_timespec(entry.mtime_ns())};
    const std::string name = go_to(entry);
    if (::utimensat(directory_.get(), name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0)
      fail("set the times of", entry);
  }

 private:
  static bool is_known(const pb::FileEntry& entry) {
    return !entry.is_cover() && entry.mtime_ns() != 0;
  }
  [[noreturn]] static void fail(std::string_view what, const pb::FileEntry& entry) {
    throw_errno("cannot {} {} in a file system in memory", what, printable(entry.path()));
  }

  // Never out of the file system, whatever the image says: no link is followed on the way.
  Fd open_directory(const std::string& path) const {
    open_how how{};
    how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
    const std::string relative = path == "/" ? "." : path.substr(1);
    Fd directory(
        static_cast<int>(::syscall(SYS_openat2, root_.get(), relative.c_str(), &how, sizeof how)));
    if (!directory.valid())
      throw_errno("cannot open {} in a file system in memory", printable(path));
    return directory;
  }

  // The name of an entry in directory_.
  std::string go_to(const pb::FileEntry& entry) {
    const std::string& path = entry.path();
    if (!path.starts_with('/') || path.ends_with("/..") || path.ends_with("/."))
      throw Error("cannot make " + printable(path), "it is no path of a file");
    if (const std::string above = directory_of(path); above != at_ || !directory_.valid())
      directory_ = open_directory(above), at_ = above;
    return path == "/" ? "." : path.substr(path.rfind('/') + 1);
  }

  void link(const pb::FileEntry& entry, const std::string& name) {
    const std::string& same = entry.same_as();
    const Fd from = open_directory(directory_of(same));
    if (::linkat(from.get(), same.c_str() + same.rfind('/') + 1, directory_.get(), name.c_str(),
                 0) != 0)
      fail("link", entry);
  }

  // In a user namespace nobody may make one.
  void leave_out(const pb::FileEntry& entry) {
    left_out_.insert(entry.path());
    notes_.push_back(fmt::format("the device {}, in a file system in memory, is not there: {}",
                                 printable(entry.path()), errno_text(EPERM)));
  }

  // False: it is a device, which we may not make.
  bool make_node(const pb::FileEntry& entry, const std::string& name) {
    constexpr mode_t kWhileMade = 0700;
    const mode_t kind = entry.mode() & S_IFMT;
    bool made = true;
    if (kind == S_IFREG)
      make_file(entry, name);
    else if (kind == S_IFDIR)
      made = name == "." || ::mkdirat(directory_.get(), name.c_str(), kWhileMade) == 0;
    else if (kind == S_IFLNK)
      made = ::symlinkat(entry.link().c_str(), directory_.get(), name.c_str()) == 0;
    else
      made = ::mknodat(directory_.get(), name.c_str(), kind | 0600, entry.node()) == 0;
    const bool is_device = kind == S_IFCHR || kind == S_IFBLK;
    if (!made && !(is_device && errno == EPERM)) fail("make", entry);
    return made;
  }

  void make_file(const pb::FileEntry& entry, const std::string& name) {
    const Fd file(::openat(directory_.get(), name.c_str(),
                           O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file.valid()) fail("make", entry);
    if (const pb::FileRecord* record = snapshot_.file(entry.file()))
      return fill_from_image(file, snapshot_, *record);
    if (::ftruncate(file.get(), static_cast<off_t>(entry.size())) != 0) fail("size", entry);
    pwrite_all(file.get(), std::as_bytes(std::span(entry.content())), 0, entry.path());
  }

  // EINVAL: a user that the tree's user namespace does not have.
  void set_rights(const pb::FileEntry& entry, const std::string& name) {
    const uint32_t user = numbers_.user(entry.owner()), group = numbers_.group(entry.group());
    if (::fchownat(directory_.get(), name.c_str(), user, group, AT_SYMLINK_NOFOLLOW) != 0 &&
        errno != EINVAL)
      fail("give away", entry);
    if (!S_ISLNK(entry.mode()) &&
        ::fchmodat(directory_.get(), name.c_str(), entry.mode() & 07777, 0) != 0)
      fail("set the rights of", entry);
    for (const pb::ExtendedAttribute& attribute : entry.attributes())
      set_attribute(entry, attribute, name);
  }

  // Those that only the system's own root may set ("trusted.") are lost in a user namespace.
  void set_attribute(const pb::FileEntry& entry, const pb::ExtendedAttribute& attribute,
                     const std::string& name) {
    const std::string place = path_of(directory_) + "/" + name;
    if (::lsetxattr(place.c_str(), attribute.name().c_str(), attribute.value().data(),
                    attribute.value().size(), 0) == 0)
      return;
    const std::string why = errno_text(errno);
    const auto [lack, is_first] = lacks_.try_emplace(attribute.name(), entry.path(), why);
    if (!is_first) ++lack->second.others;
  }

  struct Lack {
    std::string path, why;
    int others = 0;
  };
  std::map<std::string, Lack> lacks_;  // by the attribute's name
  std::vector<std::string> notes_;
  std::set<std::string> left_out_;
  Fd directory_;  // that of the entry at hand
  std::string at_;
  const Snapshot& snapshot_;
  const UserNumbers& numbers_;
  const Fd& root_;
};

}  // namespace

void capture_file_tree(NamelessFiles& files, const Fd& directory, const std::string& root,
                       pb::FileSystem& out) {
  TreeCapture(files, out).capture(directory, root);
}

std::vector<std::string> restore_file_tree(const Snapshot& snapshot, const pb::FileSystem& system,
                                           const UserNumbers& numbers, const Fd& root) {
  TreeRestore restore(snapshot, numbers, root);
  for (const pb::FileEntry& entry : system.entries()) restore.make(entry);
  for (const pb::FileEntry& entry : system.entries()) restore.set_times(entry);
  return restore.take_notes();
}

const pb::FileEntry* entry_at(const pb::FileSystem& system, const std::string& path) {
  const auto found = std::ranges::find(system.entries(), path, &pb::FileEntry::path);
  return found == system.entries().end() ? nullptr : &*found;
}

}  // namespace snapgdb
