#include "core/linux/abilities.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/kcmp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>

#include "core/base/error.h"
#include "core/base/fd.h"
#include "core/linux/child.h"
#include "core/linux/pagemap.h"
#include "core/linux/procfs.h"
#include "core/linux/task.h"
#include "core/linux/write_tracker.h"

namespace snapgdb {
namespace {

std::string unless(bool possible) {
  return possible ? "" : errno_text(errno);
}

std::string unless_capable(int number, std::string_view name) {
  return has_capability(number) ? "" : fmt::format("it takes {}", name);
}

std::string first_line(const char* path) {
  std::string line;
  std::getline(std::ifstream(path), line);
  return line;
}

// What an attempt says that changes the process which makes it.
std::string in_child(std::string (*attempt)()) {
  PipeEnds answer = make_pipe();
  const pid_t child = ::fork();
  if (child < 0) return errno_text(errno);
  if (child == 0) {
    const std::string why_not = attempt();
    [[maybe_unused]] const ssize_t n = ::write(answer.write.get(), why_not.data(), why_not.size());
    ::_exit(0);
  }
  answer.write.reset();
  std::string why_not = read_whole(answer.read.get(), "the answer of a child");
  const int status = wait_for(child);
  return status == 0 ? why_not : fmt::format("the attempt ended with status {:#x}", status);
}

// ---- Capturing ----------------------------------------------------------------------------------

// Documentation/admin-guide/LSM/Yama.rst
std::string why_not_trace_own() {
  const std::string scope = first_line("/proc/sys/kernel/yama/ptrace_scope");
  if (scope.empty() || scope == "0" || (scope != "3" && has_capability(CAP_SYS_PTRACE))) return "";
  return fmt::format("kernel.yama.ptrace_scope is {}", scope);
}

std::string why_not_trace_others() {
  return unless_capable(CAP_SYS_PTRACE, "CAP_SYS_PTRACE");
}

std::string why_no_scan() {
  const Pagemap pagemap(ProcDirectory::of(Pid{::getpid()}));
  return pagemap.can_scan() ? "" : "the kernel has no PAGEMAP_SCAN (Linux 6.7)";
}

std::string why_no_first_copies() {
  const std::string why_not = WriteTracker::why_not_here();
  return why_not.empty() ? why_no_scan() : why_not;
}

std::string why_no_twin() {
  return first_line("/proc/sys/vm/overcommit_memory") == "2"
             ? "vm.overcommit_memory is 2: memory may not be promised twice"
             : "";
}

std::string why_no_descriptors() {
  const Fd self(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  if (!self.valid()) return "pidfd_open: " + errno_text(errno);
  const Fd copy(static_cast<int>(::syscall(SYS_pidfd_getfd, self.get(), self.get(), 0)));
  return copy.valid() ? "" : "pidfd_getfd: " + errno_text(errno);
}

std::string why_no_comparing() {
  return unless(::syscall(SYS_kcmp, ::getpid(), ::getpid(), KCMP_VM, 0, 0) >= 0);
}

std::string why_no_thread_handles() {
  const Fd self(static_cast<int>(::syscall(SYS_pidfd_open, ::gettid(), kPidfdThread)));
  return unless(self.valid());
}

std::string why_no_mapped_objects() {
  if (has_capability(CAP_SYS_ADMIN)) return "";
  return unless_capable(CAP_CHECKPOINT_RESTORE, "CAP_CHECKPOINT_RESTORE");
}

std::string why_no_filters() {
  return unless_capable(CAP_SYS_ADMIN, "CAP_SYS_ADMIN");
}

// ---- Restoring ----------------------------------------------------------------------------------

constexpr int kSandbox =
    CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID | CLONE_NEWTIME;

int user_namespace() {
  return ::geteuid() == 0 ? 0 : CLONE_NEWUSER;
}

std::string choose_number() {
  if (user_namespace() && ::unshare(CLONE_NEWUSER | CLONE_NEWPID) != 0)
    return "a user namespace: " + errno_text(errno);
  // In a new namespace its first process may be number 1 only.
  pid_t wanted = 1;
  if (!user_namespace()) {
    const pid_t free = ::fork();
    if (free == 0) ::_exit(0);
    if (free < 0 || wait_for(free) < 0) return errno_text(errno);
    wanted = free;
  }
  const pid_t child = clone3(
      {.exit_signal = SIGCHLD, .set_tid = reinterpret_cast<uint64_t>(&wanted), .set_tid_size = 1});
  if (child == 0) ::_exit(0);
  return unless(child > 0 && wait_for(child) >= 0);
}

std::string make_namespaces() {
  return unless(::unshare(kSandbox | user_namespace()) == 0);
}

std::string mount_overlay() {
  if (const std::string why_not = make_namespaces(); !why_not.empty()) return why_not;
  const bool mounted = ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                       ::mount("tmpfs", "/tmp", "tmpfs", 0, nullptr) == 0 &&
                       ::mkdir("/tmp/upper", 0700) == 0 && ::mkdir("/tmp/work", 0700) == 0 &&
                       ::mount("overlay", "/tmp", "overlay", 0,
                               "lowerdir=/usr,upperdir=/tmp/upper,workdir=/tmp/work") == 0;
  return unless(mounted);
}

std::string why_no_number() {
  return in_child(choose_number);
}
std::string why_no_namespaces() {
  return in_child(make_namespaces);
}
std::string why_no_overlay() {
  return in_child(mount_overlay);
}

std::string why_no_old_rights() {
  return ::geteuid() == 0 ? "" : "only root may choose them outside of a namespace";
}

std::string why_no_connections() {
  const Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  return unless(socket.valid() &&
                ::setsockopt(socket.get(), IPPROTO_TCP, TCP_REPAIR, &on, sizeof on) == 0);
}

std::string why_not_lazy() {
  const Fd userfault(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC)));
  return unless(userfault.valid());
}

constexpr Ability kToCapture[] = {
    {"your own processes", true, why_not_trace_own,
     "set it to 0, or be root: sysctl kernel.yama.ptrace_scope"},
    {"processes of other users", false, why_not_trace_others, "be root"},
    {"descriptors", true, why_no_descriptors,
     "Linux 5.6, and a sandbox around snapgdb that lets it pass"},
    {"what processes have in common", true, why_no_comparing,
     "a kernel with CONFIG_KCMP, and a sandbox around snapgdb that lets kcmp(2) pass"},
    {"hardly a pause, by first copies", false, why_no_first_copies,
     "without, the pause is 25 ms a GiB, or that of copying"},
    {"hardly a pause, by copy-on-write", false, why_no_twin,
     "where there are no first copies either, memory is copied while the tree is stopped"},
    {"handles of threads (pidfd)", false, why_no_thread_handles,
     "Linux 6.9; without, no first copies, and such descriptors are not told apart"},
    {"shared memory that nobody maps in or has open", false, why_no_mapped_objects,
     "be root; without, it is missing from the image, which says so"},
    {"seccomp filters", false, why_no_filters,
     "be root; without, programs that have some cannot be restored"},
};

constexpr Ability kToRestore[] = {
    {"process numbers as they were", true, why_no_number,
     "allow user namespaces (user.max_user_namespaces, kernel.unprivileged_userns_clone), or be "
     "root"},
    {"the same numbers outside, other users, files of others", false, why_no_old_rights,
     "be root; without, the tree has its numbers inside of a namespace of its own"},
    {"isolated: namespaces, clocks", true, why_no_namespaces,
     "allow user namespaces (user.max_user_namespaces, kernel.unprivileged_userns_clone), or be "
     "root"},
    {"isolated: files that are written to", true, why_no_overlay,
     "a kernel with overlay file systems, for others than root in user namespaces (Linux 5.11)"},
    {"TCP connections to outside", false, why_no_connections, "be root (CAP_NET_ADMIN)"},
    {"memory on demand (--lazy)", false, why_not_lazy,
     "be root (CAP_SYS_PTRACE); without, memory is there before the tree runs"},
};

}  // namespace

std::span<const Ability> abilities_to_capture() {
  return kToCapture;
}

std::span<const Ability> abilities_to_restore() {
  return kToRestore;
}

}  // namespace snapgdb
