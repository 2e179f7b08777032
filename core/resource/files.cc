#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/device_number.h"
#include "core/linux/task.h"
#include "core/linux/user_for_files.h"
#include "core/resource/brief_name.h"
#include "core/resource/covered.h"
#include "core/resource/mounts.h"
#include "core/resource/resources.h"
#include "core/resource/task_paths.h"
#include "core/resource/terminal.h"

namespace snapgdb {
namespace {

// The major numbers of terminals (Documentation/admin-guide/devices.txt): tty, console and ptmx,
// and the 8 majors of pty slaves.
bool is_terminal(unsigned major) {
  return major == 4 || major == 5 || (major >= 136 && major < 144);
}

constexpr uint32_t kMemoryMajor = 1;  // /dev/null, /dev/mem, /dev/kmsg and the like

// Or a symbolic link itself (O_PATH | O_NOFOLLOW), or the name of something else.
bool is_regular(const OpenDescriptor& open) {
  const mode_t mode = open.status.st_mode;
  return S_ISREG(mode) || S_ISLNK(mode) ||
         ((S_ISFIFO(mode) || S_ISSOCK(mode)) && open.is_name_only());
}

// The link in /proc leads to the name it had; where it leads itself, only a descriptor tells.
void capture_removed_link(CaptureContext& context, const OpenDescriptor& open,
                          pb::Descriptor& out) {
  out.set_removed(true);
  std::string target(PATH_MAX, '\0');
  const Fd link = duplicate_descriptor(open.process.a_task(), open.number);
  const ssize_t size =
      link.valid() ? ::readlinkat(link.get(), "", target.data(), target.size()) : -1;
  if (size < 0)
    return context.lacks(open.process.pid, {}, "target of " + open.target, errno_text(errno));
  target.resize(static_cast<size_t>(size));
  out.mutable_file()->set_link_target(target);
}

void capture_regular(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::RegularFile& file = *out.mutable_file();
  if (S_ISLNK(open.status.st_mode) && open.status.st_nlink == 0)
    return capture_removed_link(context, open, out);
  if (!S_ISREG(open.status.st_mode)) return out.set_removed(open.status.st_nlink == 0);
  out.set_covered(is_covered(open));
  file.set_unlinked(open.status.st_nlink == 0);
  if (file.unlinked()) return out.set_nameless(nameless_id(context, open));
  if (!open.deleted) return;
  file.set_other_links(open.status.st_nlink);
  auto name = other_name_of(open.process.task_proc, open.status, open.target);
  if (!name) return;
  file.set_former_name(open.target);
  out.set_target(std::move(*name));
}

// Reads names from the beginning, as long as `visit`, which is told where the next one is, wants
// more.
void read_names(const Fd& directory, auto visit) {
  alignas(dirent64) char names[32 * 1024];
  long size = 0;
  while ((size = ::syscall(SYS_getdents64, directory.get(), names, sizeof names)) > 0)
    for (long at = 0; at < size;) {
      const auto* entry = reinterpret_cast<const dirent64*>(names + at);
      if (!visit(static_cast<uint64_t>(entry->d_off))) return;
      at += entry->d_reclen;
    }
}

// A position means something to the file system that gave it only. Up to so many names, which is
// some milliseconds; 0: it is not known.
constexpr uint64_t kMaxNames = 20'000;
uint64_t names_before(const OpenDescriptor& open) {
  const std::string name = fmt::format("fd/{}", open.number);
  constexpr int kFlags = O_RDONLY | O_DIRECTORY;
  Fd again = open.process.task_proc.open(name, kFlags | O_NOATIME);
  if (!again.valid()) again = open.process.task_proc.open(name, kFlags);  // it is another user's
  const uint64_t position = open.info.number("pos");
  uint64_t count = 0, found = 0;
  if (again.valid())
    read_names(again, [&](uint64_t next) {
      if (++count <= kMaxNames && next == position) found = count;
      return found == 0 && count < kMaxNames;
    });
  return found;
}

bool is_directory(const OpenDescriptor& open) {
  return S_ISDIR(open.status.st_mode);
}

void capture_directory(CaptureContext&, const OpenDescriptor& open, pb::Descriptor& out) {
  if (out.position() && !(out.flags() & O_PATH))
    out.mutable_directory()->set_names_before(names_before(open));
  else
    out.mutable_directory();
  out.set_covered(is_covered(open));
  out.set_removed(open.status.st_nlink == 0);
}

bool is_device(const OpenDescriptor& open) {
  return S_ISCHR(open.status.st_mode) || S_ISBLK(open.status.st_mode);
}

void capture_device(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::Device& device = *out.mutable_device_node();
  out.set_covered(is_covered(open));
  out.set_removed(open.status.st_nlink == 0 && open.deleted);
  device.set_block(S_ISBLK(open.status.st_mode));
  device.set_major(major_of(open.status.st_rdev));
  device.set_minor(minor_of(open.status.st_rdev));
  device.set_terminal(!device.block() && is_terminal(device.major()));
  if (device.terminal() && !(out.flags() & O_PATH)) capture_terminal(context, open, device);
}

// ---- Restoring ----------------------------------------------------------------------------------

bool may_write(const pb::Descriptor& descriptor) {
  return (descriptor.flags() & O_ACCMODE) != O_RDONLY && !(descriptor.flags() & O_PATH);
}

// Documentation/accounting/psi.rst: what was written to it, the kernel does not show; and one
// opened anew, without anything written, is always ready.
bool is_pressure_trigger(const pb::Descriptor& descriptor) {
  const std::string& name = descriptor.target();
  return descriptor.has_file() && may_write(descriptor) &&
         (name.starts_with("/proc/pressure/") ||
          (name.starts_with("/sys/fs/cgroup/") && name.ends_with(".pressure")));
}

// Of a directory in another file system (the sandbox's, above the one that it was in).
void go_to_name(OpeningContext& context, const Fd& directory, const pb::Descriptor& descriptor) {
  struct stat status {};
  const uint64_t before = descriptor.directory().names_before();
  const bool is_same = ::fstat(directory.get(), &status) == 0 &&
                       status.st_dev == descriptor.device() && status.st_ino == descriptor.inode();
  if (!descriptor.position() || is_same || descriptor.flags() & O_PATH)
    return go_to_position(directory, descriptor);
  if (!before) {
    context.notes.push_back(
        fmt::format("{}: which of its names have been read is not known: some may be passed over",
                    printable(descriptor.target())));
    return go_to_position(directory, descriptor);
  }
  uint64_t count = 0, position = 0;
  read_names(directory, [&](uint64_t next) {
    position = next;
    return ++count < before;
  });
  if (::lseek(directory.get(), static_cast<off_t>(position), SEEK_SET) < 0)
    throw_errno("cannot seek in {}", printable(descriptor.target()));
}

// O_CREAT, O_EXCL and O_TRUNC are not among the flags of an open file.
Fd open_path(OpeningContext& context, const pb::Descriptor& descriptor) {
  if (is_pressure_trigger(descriptor)) return Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const BriefName name(descriptor);
  const int flags = static_cast<int>(descriptor.flags()) | O_CLOEXEC |
                    (descriptor.flags() & O_PATH ? 0 : O_NOCTTY);
  Fd fd = descriptor.covered()   ? open_covered(descriptor, flags)
          : descriptor.removed() ? Fd(::open(name.path().c_str(), flags))
                                 : open_for_holder(context, name.path(), flags);
  if (!fd.valid()) throw_errno("cannot open {}", printable(descriptor.target()));
  descriptor.has_directory() ? go_to_name(context, fd, descriptor) : go_to_position(fd, descriptor);
  return fd;
}

Fd open_file(OpeningContext& context, const pb::Descriptor& descriptor) {
  if (!descriptor.file().unlinked()) return open_path(context, descriptor);
  return open_again(nameless_object(context, descriptor), descriptor.flags() & ~uint32_t{O_TMPFILE},
                    descriptor, false);
}

std::string file_obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  if (descriptor.removed() && descriptor.file().link_target().empty())
    return S_ISLNK(descriptor.mode()) ? "where the link leads is not in the image"
                                      : "it was removed, and was open by its name only";
  return descriptor.file().unlinked() ? why_not_in_image(snapshot, descriptor)
                                      : path_obstacle(snapshot, descriptor);
}

std::string file_note(const pb::Descriptor& descriptor) {
  if (is_pressure_trigger(descriptor))
    return "what it was to be told of is not shown by the kernel: it is told of nothing";
  const std::string& former = descriptor.file().former_name();
  return former.empty() ? ""
                        : fmt::format(
                              "it had been opened as {}, a name that was gone; it is opened "
                              "by another one that it has",
                              printable(former));
}

bool is_kernel_log(const pb::Descriptor& descriptor) {
  const pb::Device& device = descriptor.device_node();
  return !device.block() && device.major() == kMemoryMajor && device.minor() == 11 &&
         (descriptor.flags() & O_ACCMODE) != O_WRONLY && !(descriptor.flags() & O_PATH);
}

// Terminals that are not the tree's own are those of the standard streams, or else gone.
Fd open_device(OpeningContext& context, const pb::Descriptor& descriptor) {
  if (descriptor.device_node().hung_up()) return open_hung_up_terminal(context, descriptor);
  if (is_own_terminal(context.snapshot, descriptor)) return open_terminal(context, descriptor);
  const bool is_there = !descriptor.device_node().terminal() ||
                        (!context.sandbox && is_machines_terminal(context.snapshot, descriptor));
  if (!is_there) return Fd(::open("/dev/null", O_RDWR | O_CLOEXEC));
  Fd fd = open_unless_late(context, descriptor, open_path);
  if (is_kernel_log(descriptor) && ::lseek(fd.get(), 0, SEEK_END) < 0)
    throw_errno("cannot go to the end of {}", printable(descriptor.target()));
  return fd;
}

// Terminals have been opened already.
Fd open_device_late(LateOpening& opening, const pb::Descriptor& descriptor) {
  return descriptor.device_node().terminal() ? Fd() : open_proc_late(opening, descriptor);
}

// Devices of which each open file is something of its own (Documentation/admin-guide/devices.txt):
// opened again, they would be nothing's.
constexpr struct {
  uint32_t major, minor;
  const char* what;
} kWithState[] = {
    {10, 200, "a network interface (tun, tap)"},
    {10, 229, "a file system in user space (fuse)"},
    {10, 203, "a character device in user space (cuse)"},
    {10, 223, "an input device in user space (uinput)"},
    {10, 239, "an input device in user space (uhid)"},
    {10, 238, "network of a virtual machine (vhost-net)"},
    {10, 241, "sockets of a virtual machine (vhost-vsock)"},
};

std::string device_obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const pb::Device& device = descriptor.device_node();
  for (const auto& [major, minor, what] : kWithState)
    if (!device.block() && device.major() == major && device.minor() == minor &&
        !(descriptor.flags() & O_PATH))
      return fmt::format("what it is connected with is the kernel's: {}", what);
  if (device.hung_up()) return "";
  if (descriptor.removed() && ::geteuid() != 0)
    return "it was removed, and only root makes devices";
  const bool is_replaced =
      descriptor.device_node().terminal() && !is_machines_terminal(snapshot, descriptor);
  return is_replaced ? "" : path_obstacle(snapshot, descriptor);
}

// Misc devices that keep nothing of who opened them.
constexpr uint32_t kMiscMajor = 10, kStateless[] = {183 /* hwrng */, 232 /* kvm */, 237 /* loop */};

std::string device_note(const pb::Descriptor& descriptor) {
  const pb::Device& device = descriptor.device_node();
  if (is_kernel_log(descriptor)) return "it goes on behind the messages that are there now";
  const bool is_stateless =
      device.block() || device.terminal() || descriptor.flags() & O_PATH ||
      device.major() == kMemoryMajor ||
      (device.major() == kMiscMajor && std::ranges::count(kStateless, device.minor()));
  return is_stateless ? "" : "it is opened anew: what its driver kept for the program is lost";
}

Fd open_file_or_proc(OpeningContext& context, const pb::Descriptor& descriptor) {
  return open_unless_late(context, descriptor, open_file);
}

Fd open_directory(OpeningContext& context, const pb::Descriptor& descriptor) {
  return open_unless_late(context, descriptor, open_path);
}

}  // namespace

Fd open_for_holder(const OpeningContext& context, const std::string& path, int flags) {
  const auto open = [&] { return Fd(::open(path.c_str(), flags)); };
  const pb::Process* holder = context.holder;
  if (!holder || ::geteuid() != 0 || holder->threads().empty()) return open();
  const pb::Credentials& whose = holder->threads(0).credentials();
  const uint32_t user = context.numbers.user(whose.fsuid());
  if (user == 0 || user == UserNumbers::kNone) return open();
  const open_how how{.flags = static_cast<uint64_t>(flags), .resolve = RESOLVE_NO_SYMLINKS};
  Fd direct(static_cast<int>(::syscall(SYS_openat2, AT_FDCWD, path.c_str(), &how, sizeof how)));
  if (direct.valid() || (errno != ELOOP && errno != ENOSYS)) return direct;
  const UserForFiles as_holder(user, context.numbers.group(whose.fsgid()));
  return open();
}

std::string path_obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  struct stat status {};
  if (leads_to_tasks(snapshot, descriptor) && !is_below(snapshot, mounts_of(snapshot, descriptor)))
    return "";
  const pb::NamespaceState* mounts = mounts_of(snapshot, descriptor);
  if (is_below(snapshot, mounts) &&
      (descriptor.removed() || descriptor.has_pipe() || descriptor.covered()))
    return "it is in a mount namespace below that of the first process, where such cannot be "
           "restored";
  const auto outside = path_outside(mounts, descriptor.target());
  if (descriptor.removed()) return outside ? BriefName::obstacle(*outside) : "";
  if (descriptor.covered())
    return mounts ? "" : covered_obstacle(descriptor);  // theirs are not there yet
  if (descriptor.file().other_links() && descriptor.file().former_name().empty())
    return fmt::format("that name of it was gone; of its {} others none was found",
                       descriptor.file().other_links());
  if (stat_for_tree(mounts, descriptor.target(), status, !S_ISLNK(descriptor.mode())) != 0)
    return errno_text(errno);
  if ((status.st_mode & S_IFMT) != (descriptor.mode() & S_IFMT))
    return "another kind of file has its name now";
  const uint32_t access = descriptor.flags() & O_ACCMODE;
  const int wanted = access == O_RDONLY ? R_OK : access == O_WRONLY ? W_OK : R_OK | W_OK;
  if (!(descriptor.flags() & O_PATH) && outside &&
      ::faccessat(AT_FDCWD, outside->c_str(), wanted, AT_EACCESS) != 0)
    return errno_text(errno);
  return "";
}

bool writes_to_hardware(const pb::Descriptor& descriptor) {
  constexpr uint32_t kScsiMajor = 21, kMemoryItself[] = {1, 2, 4};  // mem, kmem, port
  const pb::Device& device = descriptor.device_node();
  return descriptor.has_device_node() && may_write(descriptor) &&
         (device.block() || device.major() == kScsiMajor ||
          (device.major() == kMemoryMajor && std::ranges::count(kMemoryItself, device.minor())));
}

// Of many character devices, and of some files of the kernel's, there is none.
void go_to_position(const Fd& file, const pb::Descriptor& descriptor) {
  if (descriptor.flags() & O_PATH) return;
  const bool may_have_none = descriptor.position() == 0 ||
                             (descriptor.has_device_node() && !descriptor.device_node().block());
  if (::lseek(file.get(), static_cast<off_t>(descriptor.position()), SEEK_SET) < 0 &&
      !(errno == ESPIPE && may_have_none))
    throw_errno("cannot seek in {}", printable(descriptor.target()));
}

const DescriptorRestorer kRegularFileRestorer{
    pb::Descriptor::kFile, file_obstacle, open_file_or_proc, file_note, open_proc_late, nullptr};
const DescriptorRestorer kDirectoryRestorer{.kind = pb::Descriptor::kDirectory,
                                            .obstacle = path_obstacle,
                                            .open = open_directory,
                                            .open_late = open_proc_late};
const DescriptorRestorer kDeviceRestorer{.kind = pb::Descriptor::kDeviceNode,
                                         .obstacle = device_obstacle,
                                         .open = open_device,
                                         .note = device_note,
                                         .open_late = open_device_late};

const DescriptorResource kRegularFile{"file", is_regular, capture_regular};
const DescriptorResource kDirectory{"directory", is_directory, capture_directory};
const DescriptorResource kDevice{"device", is_device, capture_device};

}  // namespace snapgdb
