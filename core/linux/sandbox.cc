#include "core/linux/sandbox.h"

#include <fcntl.h>
#include <linux/keyctl.h>
#include <mntent.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <memory>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/mounting.h"

namespace snapgdb {
namespace {

namespace fs = std::filesystem;

const std::string kView = kStage + "/view";

void bind_mount(const std::string& from, const std::string& to, uint64_t flags = 0) {
  if (::mount(from.c_str(), to.c_str(), nullptr, MS_BIND | flags, nullptr) != 0)
    throw_errno("cannot show {} in the sandbox", printable(from));
}

void make_file(const std::string& path, mode_t mode) {
  const Fd file(::open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, mode));
  if (!file.valid()) throw_errno("cannot make {}", printable(path));
}

void imitate_fifo(const std::string& path, const std::string& target) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0 || ::mkfifo(target.c_str(), 0600) != 0)
    throw_errno("cannot make another FIFO {}", printable(path));
  imitate_attributes(status, target);
}

bool lies_below(std::string_view path, std::string_view directory) {
  return path.size() > directory.size() && path.starts_with(directory) &&
         path[directory.size()] == '/';
}

// As overlayfs wants it.
std::string escaped(std::string_view path) {
  std::string out;
  for (const char c : path) {
    if (c == ',' || c == ':' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

// Of one that was removed, where somebody still works, that in which it was.
std::string nearest_directory(fs::path path) {
  std::error_code failed;
  while (path.has_relative_path() && !fs::is_directory(path, failed)) path = path.parent_path();
  return path;
}

std::string path_in(const Fd& directory, const std::string& name) {
  return fmt::format("/proc/self/fd/{}/{}", directory.get(), name);
}

constexpr const char* kUnwritable = " cannot be written to in the sandbox";
constexpr uint64_t kLargestCopy = uint64_t{1} << 20;

}  // namespace

// ---- Building -----------------------------------------------------------------------------------

Sandbox::Sandbox(const Options& options) {
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    throw_errno("cannot separate the mounts of the sandbox");
  find_cuts(options.directories);
  mount_at(kStage, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755");
  scratch_ = Fd(::open(kStage.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  make_directory(kView);
  mount_at(kView, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755");
  imitate("");
  place_devices(options.devices);
  place_replacements(options.replaced);
  note_unwritable_files();
  leave_session_keyring();
  enter();
}

// What the tree adds to its keyring, or revokes there, is not to be ours: keyrings(7).
void Sandbox::leave_session_keyring() {
  if (::syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr) < 0 && errno != ENOSYS)
    notes_.push_back("the sandbox has our session keyring: " + errno_text(errno));
}

// The root of an overlay needs no copy, whosever it is: so those that everybody may write to are
// some, too.
void Sandbox::find_cuts(std::span<const std::string> directories) {
  std::ranges::transform(directories, std::back_inserter(cuts_), nearest_directory);
  const std::unique_ptr<FILE, int (*)(FILE*)> mounts(::setmntent("/proc/self/mounts", "r"),
                                                     ::endmntent);
  if (!mounts) throw_errno("cannot read /proc/self/mounts");
  while (const mntent* entry = ::getmntent(mounts.get())) cuts_.emplace_back(entry->mnt_dir);
  for (const char* special : {"/proc", "/sys", "/dev", "/tmp", "/var/tmp"})
    if (fs::is_directory(fs::symlink_status(special))) cuts_.emplace_back(special);
  std::erase(cuts_, "/");
}

void Sandbox::mount_proc(const std::string& proc) {
  mount_at(proc, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC);
  protect_settings(proc);
}

// To the kernel's settings, whoever is root outside has access still.
void Sandbox::protect_settings(const std::string& proc) {
  for (const char* settings : {"/bus", "/fs", "/irq", "/sys", "/sysrq-trigger"})
    if (fs::exists(proc + settings)) {
      bind_mount(proc + settings, proc + settings);
      make_unchanging(proc + settings);
    }
}

// A directory, in kView as outside. Precondition: the one that it lies in is there.
void Sandbox::place(const std::string& path) {
  const std::string target = kView + path;
  make_directory(target);
  if (path == "/dev") return;
  if (path == "/proc") return mount_proc(target);
  if (path == "/sys") return show_unchanging(path);
  const bool leads_to_others =
      std::ranges::any_of(cuts_, [&](const auto& cut) { return lies_below(cut, path); });
  if (leads_to_others && ::access(path.c_str(), R_OK | X_OK) == 0) return imitate(path);
  if (leads_to_others || !overlay(path)) show_unchanging(path);
}

bool Sandbox::overlay(const std::string& path) {
  struct stat status {};
  struct statvfs system {};
  if (::stat(path.c_str(), &status) != 0 || ::statvfs(path.c_str(), &system) != 0) return false;
  const std::string layer = kStage + "/" + std::to_string(layers_.size());
  make_directory(layer), make_directory(layer + "/upper"), make_directory(layer + "/work");
  imitate_attributes(status, layer + "/upper");
  // The bits of statvfs(3) are those of mount(2).
  const uint64_t flags = system.f_flag & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC);
  const auto options = fmt::format("lowerdir={0},upperdir={1}/upper,workdir={1}/work,userxattr",
                                   escaped(path), layer);
  if (::mount("overlay", (kView + path).c_str(), "overlay", flags, options.c_str()) != 0)
    return false;
  layers_.push_back(path);
  return true;
}

// A directory that leads to mounts. Others go on working in it: what is gone meanwhile is not
// there.
void Sandbox::imitate(const std::string& path) {
  skeleton_.push_back(path);
  for (const auto& entry : fs::directory_iterator(path + "/")) {
    const std::string name = path + "/" + entry.path().filename().string();
    std::error_code failed;
    try {
      imitate_entry(name);
    } catch (const std::exception&) {
      if (fs::exists(fs::symlink_status(name, failed))) throw;
      fs::remove(kView + name, failed);
    }
  }
  struct stat status {};
  if (::stat((path + "/").c_str(), &status) == 0) imitate_attributes(status, kView + path);
}

// But for sockets of others: nobody answers there. Nor is anybody at the other end of a FIFO, but
// the tree may be at both.
void Sandbox::imitate_entry(const std::string& path) {
  const fs::file_type type = fs::symlink_status(path).type();
  if (type == fs::file_type::directory)
    place(path);
  else if (type == fs::file_type::symlink)
    fs::copy_symlink(path, kView + path);
  else if (type == fs::file_type::regular)
    return imitate_file(path);
  else if (type == fs::file_type::fifo)
    imitate_fifo(path, kView + path);
  else
    return;
  imitated_[path];
}

// A copy, or, of what is large or secret, the file itself, which cannot be written to.
void Sandbox::imitate_file(const std::string& path) {
  const std::string target = kView + path;
  struct stat status {};
  const bool known = ::stat(path.c_str(), &status) == 0;
  if (known && static_cast<uint64_t>(status.st_size) <= kLargestCopy &&
      ::access(path.c_str(), R_OK) == 0) {
    fs::copy_file(path, target);
    imitate_attributes(status, target);
    imitated_[path] = fs::last_write_time(target);
  } else {
    make_file(target, 0);
    show_unchanging(path);
    imitated_[path];
  }
}

// With all that is mounted below it. Precondition: there is a mount point in kView.
void Sandbox::show_unchanging(const std::string& path) {
  const std::string target = kView + path;
  if (path != "/sys" && ::access(path.c_str(), W_OK) == 0) {
    if (fs::is_directory(path))
      notes_.push_back(printable(path) + kUnwritable + "; sockets and FIFOs in it lead outside");
    else
      unwritable_files_.push_back(path);
  }
  bind_mount(path, target, MS_REC);
  make_unchanging(target);
}

// In one line: most of them are no affair of the tree's.
void Sandbox::note_unwritable_files() {
  if (unwritable_files_.empty()) return;
  const size_t others = unwritable_files_.size() - 1;
  const std::string those = others == 0   ? ""
                            : others == 1 ? " and another file"
                                          : fmt::format(" and {} other files", others);
  notes_.push_back(printable(unwritable_files_.front()) + those + kUnwritable);
}

void Sandbox::place_devices(std::span<const std::string> devices) {
  const std::string dev = kView + "/dev";
  make_directory(dev);
  mount_at(dev, "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755");
  std::vector<std::string> shown{"/dev/null",   "/dev/zero",    "/dev/full",
                                 "/dev/random", "/dev/urandom", "/dev/tty"};
  shown.insert(shown.end(), devices.begin(), devices.end());
  for (const std::string& device : shown) {
    const std::string target = kView + device;
    struct stat status {};
    if (::stat(device.c_str(), &status) != 0 || ::access(target.c_str(), F_OK) == 0) continue;
    fs::create_directories(fs::path(target).parent_path());
    make_file(target, 0);
    bind_mount(device, target);
  }
  for (const auto& [name, target] : {std::pair{"fd", "/proc/self/fd"},
                                     {"stdin", "fd/0"},
                                     {"stdout", "fd/1"},
                                     {"stderr", "fd/2"}})
    fs::create_symlink(target, dev + "/" + name);
  make_directory(dev + "/pts");
  mount_at(dev + "/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620");
  make_file(dev + "/ptmx", 0);  // no link: masters are to be called what they were
  bind_mount(dev + "/pts/ptmx", dev + "/ptmx");
  if (fs::is_directory("/dev/shm")) place("/dev/shm");
  if (fs::is_directory("/dev/mqueue")) {
    make_directory(dev + "/mqueue");
    mount_at(dev + "/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC);
  }
}

void Sandbox::place_replacements(std::span<const std::string> paths) {
  make_directory(kStage + "/files");
  for (size_t i = 0; i < paths.size(); ++i) {
    const std::string file = fmt::format("{}/files/{}", kStage, i), target = kView + paths[i];
    make_file(file, 0755);
    std::error_code failed;
    if (!fs::exists(target, failed)) {
      fs::create_directories(fs::path(target).parent_path(), failed);
      std::ofstream(target).close();
    }
    in_place_.push_back(::mount(file.c_str(), target.c_str(), nullptr, MS_BIND, nullptr) == 0);
    replaced_.insert(paths[i]);
  }
}

// pivot_root(2), "pivot_root(".", ".")": the old root lies over the new one for a moment.
void Sandbox::enter() {
  if (::chdir(kView.c_str()) != 0 || ::syscall(SYS_pivot_root, ".", ".") != 0 ||
      ::umount2(".", MNT_DETACH) != 0 || ::chdir("/") != 0)
    throw_errno("cannot enter the sandbox");
}

Fd Sandbox::replacement(size_t i) const {
  Fd file(::openat(scratch_.get(), fmt::format("files/{}", i).c_str(), O_RDWR | O_CLOEXEC));
  if (!file.valid()) throw_errno("cannot open a file of the sandbox");
  return file;
}

void Sandbox::move_descriptor(int lowest) {
  scratch_ = moved_up(std::move(scratch_), lowest);
}

// ---- What was written ---------------------------------------------------------------------------

namespace {

// overlayfs marks so what was removed.
bool is_whiteout(const fs::path& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0 && S_ISCHR(status.st_mode) && status.st_rdev == 0;
}

// A copy of a part of the sandbox.
class Saving {
 public:
  explicit Saving(fs::path directory) : directory_(std::move(directory)) {}

  // `path`: what it is in the sandbox. Others than files and links have no content to be saved.
  void file(const fs::path& from, const std::string& path) {
    const fs::path to = directory_ / path.substr(1);
    if (is_whiteout(from)) return removed(path);
    const auto type = fs::symlink_status(from).type();
    if (type != fs::file_type::regular && type != fs::file_type::symlink) return;
    fs::create_directories(to.parent_path());
    if (type == fs::file_type::symlink)
      fs::copy_symlink(from, to);
    else
      fs::copy_file(from, to, fs::copy_options::overwrite_existing);
    ++count_;
  }
  void removed(const std::string& path) {
    fs::create_directories(directory_);
    std::ofstream list(directory_ / "removed", std::ios::app);
    if (!(list << path << '\n').flush())
      throw fs::filesystem_error("cannot write", directory_ / "removed",
                                 std::make_error_code(std::errc::io_error));
    ++count_;
  }
  size_t count() const { return count_; }

 private:
  fs::path directory_;
  size_t count_ = 0;
};

}  // namespace

size_t Sandbox::save(const Fd& parent, const std::string& directory) const {
  Saving saving(path_in(parent, directory));
  const auto save_all = [&](const fs::path& from, const std::string& path) {
    for (const auto& entry : fs::recursive_directory_iterator(from)) {
      const std::string name = path + "/" + entry.path().lexically_relative(from).string();
      if (!replaced_.contains(name)) saving.file(entry.path(), name);
    }
  };
  for (size_t i = 0; i < layers_.size(); ++i)
    save_all(path_in(scratch_, fmt::format("{}/upper", i)), layers_[i]);
  for (const std::string& path : skeleton_)
    for (const auto& entry : fs::directory_iterator(path + "/")) {
      const std::string name = path + "/" + entry.path().filename().string();
      const auto known = imitated_.find(name);
      if (known == imitated_.end() && entry.symlink_status().type() == fs::file_type::directory)
        save_all(entry.path(), name);
      else if (known == imitated_.end() ||
               (known->second && entry.last_write_time() != *known->second))
        saving.file(entry.path(), name);
    }
  for (const auto& [name, time] : imitated_)
    if (!fs::exists(fs::symlink_status(name))) saving.removed(name);
  if (saving.count() == 0) fs::remove(path_in(parent, directory));
  return saving.count();
}

}  // namespace snapgdb
