#include "core/linux/namespaces.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <utility>

#include "core/base/clock.h"
#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/child.h"
#include "core/linux/helper_process.h"
#include "core/linux/procfs.h"

namespace snapgdb {
namespace {

constexpr int kNewTime = 0x80;  // CLONE_NEWTIME

}  // namespace

bool enter_namespace(const Fd& one, int kind) {
  if (::setns(one.get(), kind) == 0) return true;
  const int error = errno;
  const Fd owner = owner_of(one);
  if (owner.valid() && ::setns(owner.get(), CLONE_NEWUSER) == 0 && ::setns(one.get(), kind) == 0)
    return true;
  errno = error;
  return false;
}

void in_namespace(const Fd& one, std::string_view name, const std::function<void()>& work) {
  if (!one.valid()) throw_errno("cannot open the {} namespace of the tree", name);
  in_helper_process(
      [&] {
        if (!enter_namespace(one, namespace_flag(name)))
          throw_errno("cannot enter the {} namespace of the tree", name);
        work();
      },
      HelperDescriptors::kOurs);
}

int namespace_flag(std::string_view kind) {
  constexpr std::pair<std::string_view, int> kFlags[] = {
      {"user", CLONE_NEWUSER}, {"pid", CLONE_NEWPID},      {"mnt", CLONE_NEWNS},
      {"net", CLONE_NEWNET},   {"ipc", CLONE_NEWIPC},      {"uts", CLONE_NEWUTS},
      {"time", kNewTime},      {"cgroup", CLONE_NEWCGROUP}};
  for (const auto& [name, flag] : kFlags)
    if (name == kind) return flag;
  return 0;
}

Fd owner_of(const Fd& one) {
  return Fd(::ioctl(one.get(), NS_GET_USERNS));
}

Fd parent_of(const Fd& one) {
  return Fd(::ioctl(one.get(), NS_GET_PARENT));
}

std::optional<uint32_t> owner_user_of(const Fd& one) {
  uid_t user = 0;
  constexpr uid_t kOverflow = 65534;  // /proc/sys/kernel/overflowuid
  if (::ioctl(one.get(), NS_GET_OWNER_UID, &user) != 0 || user == kOverflow) return std::nullopt;
  return user;
}

uint64_t inode_of(const Fd& one) {
  struct stat status {};
  return one.valid() && ::fstat(one.get(), &status) == 0 ? status.st_ino : 0;
}

namespace {

// May be called in a process that has our memory and our descriptors.
void enter_owner(const Fd& owner) {
  if (owner.valid() && ::setns(owner.get(), CLONE_NEWUSER) != 0)
    throw_errno("cannot enter a user namespace of the tree");
}

Fd open_own(const std::string& what) {
  Fd fd(::open(fmt::format("/proc/self/{}", what).c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) throw_errno("cannot open /proc/self/{}", what);
  return fd;
}

void write_at(const Fd& directory, const char* name, const std::string& text) {
  const Fd file(::openat(directory.get(), name, O_WRONLY | O_CLOEXEC));
  if (!file.valid() ||
      ::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    throw_errno("cannot write {} of a user namespace", name);
}

// Is in a new user namespace, for as long as this lives.
class FirstUser {
 public:
  FirstUser(const Fd& parent, const UserMaps& maps) : control_(make_pipe()), answer_(make_pipe()) {
    pid_ = ::fork();
    if (pid_ < 0) throw_errno("cannot start a process");
    if (pid_ == 0) live(parent, maps);
    answer_.write.reset();
    char byte = 0;
    if (::read(answer_.read.get(), &byte, 1) != 1 || byte != 0)
      throw SystemError("cannot make a user namespace", byte ? byte : ECHILD);
  }
  FirstUser(const FirstUser&) = delete;
  FirstUser& operator=(const FirstUser&) = delete;
  ~FirstUser() {
    control_.write.reset();
    wait_for(pid_);
  }

  // In /proc, which may be that of another pid namespace than ours, where it has another number.
  Fd directory() const {
    const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    if (!process.valid()) throw_errno("cannot hold a process by a descriptor");
    const Fd info = open_own(fmt::format("fdinfo/{}", process.get()));
    const ProcFields fields(read_whole(info.get(), "/proc/self/fdinfo"));
    const std::string path = fmt::format("/proc/{}", fields.number("Pid"));
    Fd directory(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!directory.valid()) throw_errno("cannot open {}", path);
    return directory;
  }

 private:
  [[noreturn]] void live(const Fd& parent, const UserMaps& maps) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    control_.write.reset();
    const bool done = (!parent.valid() || ::setns(parent.get(), CLONE_NEWUSER) == 0) &&
                      ::setresgid(maps.group, maps.group, maps.group) == 0 &&
                      ::setresuid(maps.owner, maps.owner, maps.owner) == 0 &&
                      ::unshare(CLONE_NEWUSER) == 0 &&
                      ::prctl(PR_SET_DUMPABLE, 1) == 0;  // or its maps were root's
    char byte = done ? 0 : static_cast<char>(errno);
    const bool told = ::write(answer_.write.get(), &byte, 1) == 1;
    ::_exit(told && ::read(control_.read.get(), &byte, 1) == 0 ? 0 : 1);
  }

  PipeEnds control_, answer_;
  pid_t pid_ = -1;
};

}  // namespace

HostNames host_names() {
  utsname names{};
  if (::uname(&names) != 0) throw_errno("cannot ask for the name of the host");
  return {names.nodename, names.domainname};
}

void name_host(const HostNames& names) {
  if (::sethostname(names.host.data(), names.host.size()) != 0 ||
      ::setdomainname(names.domain.data(), names.domain.size()) != 0)
    throw_errno("cannot name the host {}", printable(names.host));
}

// Only children of who enters one are in it, and the kernel asks in which one the writer is
// (pid_ns_ctl_handler(), kernel/pid_namespace.c).
void choose_next_number(const Fd& pids, int32_t number) {
  in_namespace(pids, "pid", [&] {
    in_helper_process([&] {
      const Fd last(::open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC));
      const std::string text = std::to_string(number - 1);
      if (!last.valid() ||
          ::write(last.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
        throw_errno("cannot choose the number of the next task");
    });
  });
}

Fd make_namespace(std::string_view kind, const Fd& owner, const std::function<void()>& before) {
  Fd made;
  in_helper_process(
      [&] {
        before();
        enter_owner(owner);
        if (::unshare(namespace_flag(kind)) != 0) throw_errno("cannot make a {} namespace", kind);
        made = open_own(fmt::format("ns/{}", kind));
      },
      HelperDescriptors::kOurs);
  return made;
}

// Only who is above it gives it more than one user.
Fd make_user_namespace(const Fd& parent, const UserMaps& maps) {
  const FirstUser first(parent, maps);
  const Fd directory = first.directory();
  Fd made;
  in_helper_process(
      [&] {
        enter_owner(parent);
        if (maps.deny_setgroups) write_at(directory, "setgroups", "deny");
        if (!maps.users.empty()) write_at(directory, "uid_map", maps.users);
        if (!maps.groups.empty()) write_at(directory, "gid_map", maps.groups);
        made = Fd(::openat(directory.get(), "ns/user", O_RDONLY | O_CLOEXEC));
        if (!made.valid()) throw_errno("cannot hold a user namespace");
      },
      HelperDescriptors::kOurs);
  return made;
}

void give_children_clocks(int64_t monotonic_ns, int64_t boottime_ns, const ClockOffsets& ours) {
  if (::unshare(kNewTime) != 0) throw_errno("unshare(CLONE_NEWTIME)");
  const auto line = [&](const char* name, int clock, int64_t wanted) {
    constexpr int64_t kSecond = 1'000'000'000;
    const int64_t offset = wanted - static_cast<int64_t>(now_ns(clock)) +
                           (clock == CLOCK_BOOTTIME ? ours.boottime : ours.monotonic);
    const int64_t rest = (offset % kSecond + kSecond) % kSecond;
    return fmt::format("{} {} {}\n", name, (offset - rest) / kSecond, rest);
  };
  const Fd offsets(::open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC));
  const std::string text = line("monotonic", CLOCK_MONOTONIC, monotonic_ns) +
                           line("boottime", CLOCK_BOOTTIME, boottime_ns);
  if (!offsets.valid() ||
      ::write(offsets.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    throw_errno("/proc/self/timens_offsets");
}

Fd make_time_namespace(const Fd& owner, int64_t monotonic_ns, int64_t boottime_ns,
                       const ClockOffsets& ours) {
  Fd made;
  in_helper_process(
      [&] {
        enter_owner(owner);
        give_children_clocks(monotonic_ns, boottime_ns, ours);
        made = open_own("ns/time_for_children");
      },
      HelperDescriptors::kOurs);
  return made;
}

void see_own_processes() {
  if (::mount("none", "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0 ||
      ::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0)
    throw_errno("cannot mount /proc for the restored tree");
}

}  // namespace snapgdb
