#include "core/linux/keeper.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/freezer.h"
#include "core/linux/procfs.h"

namespace snapgdb {
namespace {

constexpr std::chrono::seconds kPatience{10};

pid_t clone3(CloneArguments arguments) {
  return static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof arguments));
}

// ---- In the keeper
// --------------------------------------------------------------------------------

// What the parent reads: a line that says why it failed, or an empty one.
void report(const Fd& to, std::string_view line) {
  write_all(to.get(), std::as_bytes(std::span(line)), "a pipe");
}

void see_own_processes() {
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0)
    throw_errno("cannot mount /proc for the restored tree");
}

// Whoever is born from now on sees them so (time_namespaces(7), Linux 5.6). "": it worked.
std::string set_clocks(const Keeper::Options& options) {
  constexpr int kNewTime = 0x80;  // CLONE_NEWTIME
  if (options.monotonic_ns == 0) return "";
  if (::unshare(kNewTime) != 0) return "unshare(CLONE_NEWTIME): " + errno_text(errno);
  const auto line = [](const char* name, int clock, int64_t wanted) {
    constexpr int64_t kSecond = 1'000'000'000;
    const int64_t offset = wanted - static_cast<int64_t>(now_ns(clock));
    const int64_t rest = (offset % kSecond + kSecond) % kSecond;
    return fmt::format("{} {} {}\n", name, (offset - rest) / kSecond, rest);
  };
  const Fd offsets(::open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC));
  const std::string text = line("monotonic", CLOCK_MONOTONIC, options.monotonic_ns) +
                           line("boottime", CLOCK_BOOTTIME, options.boottime_ns);
  if (!offsets.valid() ||
      ::write(offsets.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return "/proc/self/timens_offsets: " + errno_text(errno);
  return "";
}

void allow_descriptors(int highest) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_max <= static_cast<rlim_t>(highest))
    throw Error("cannot open the files of the tree",
                fmt::format("it needs {} descriptors, the limit is {}", highest, limit.rlim_max),
                "raise the hard limit (ulimit -Hn)");
}

// Puts each where the plan wants it. All of ours are out of the way first.
void place(std::vector<Fd> files, int base) {
  for (size_t i = 0; i < files.size(); ++i) {
    const int wanted = base + static_cast<int>(i);
    if (::dup3(files[i].get(), wanted, O_CLOEXEC) < 0 && files[i].get() != wanted)
      throw_errno("cannot make descriptor {}", wanted);
    if (files[i].get() == wanted) files[i].release();
  }
}

// Above all numbers that the plan gives.
Fd moved_up(Fd fd, int base) {
  Fd moved(::fcntl(fd.get(), F_DUPFD_CLOEXEC, base));
  if (!moved.valid()) throw_errno("cannot duplicate a descriptor");
  return moved;
}

void bear_root(const Keeper::Options& options) {
  Seed::kernel_parts();
  Seed::plant(options.seed_base);
  const int32_t wanted = options.root_pid;
  const CloneArguments arguments{
      .exit_signal = SIGCHLD, .set_tid = reinterpret_cast<uint64_t>(&wanted), .set_tid_size = 1};
  PipeEnds parked = make_pipe();
  const Pid keeper{::getpid()};
  const pid_t pid = clone3(arguments);
  if (pid == 0) Seed::park_and_wait(options.seed_base, parked.write.get(), keeper);
  if (pid < 0) throw_errno("cannot make process {}", wanted);
  parked.write.reset();
  char byte = 0;
  if (::read(parked.read.get(), &byte, 1) != 1)
    throw Error(fmt::format("cannot prepare process {}", wanted), "it could not move the vDSO");
}

// Reaps until the first process has ended, and says how; in a namespace of its own until there is
// nobody left.
[[noreturn]] void keep(const Keeper::Options& options, const Fd& to) {
  int status = 0;
  while (true) {
    const pid_t pid = ::waitpid(-1, &status, __WALL);
    if (pid < 0 && errno == EINTR) continue;
    if (pid < 0) ::_exit(0);
    if (pid != options.root_pid) continue;
    // Nobody reads it if we were told to let go of the terminal.
    ::signal(SIGPIPE, SIG_IGN);
    [[maybe_unused]] const ssize_t n = ::write(to.get(), &status, sizeof status);
    if (!options.own_pids) ::_exit(0);
  }
}

[[noreturn]] void be_keeper(const Keeper::Options& options, Fd to, Fd control,
                            const std::function<std::vector<Fd>()>& open_files) {
  char go = 0;
  try {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::read(control.get(), &go, 1) != 1) ::_exit(1);
    if (options.own_pids) see_own_processes();
    const std::string why_no_clocks = set_clocks(options);
    std::vector<Fd> files = open_files();
    const int above = options.file_base + static_cast<int>(files.size());
    allow_descriptors(above + static_cast<int>(files.size()) + 16);
    to = moved_up(std::move(to), above), control = moved_up(std::move(control), above);
    for (Fd& file : files) file = moved_up(std::move(file), above);
    place(std::move(files), options.file_base);
    bear_root(options);
    report(to, "\n" + why_no_clocks + "\n");
  } catch (const Error& error) {
    report(to, fmt::format("{}\n", error.what()));
    ::_exit(1);
  }
  if (::read(control.get(), &go, 1) != 1) ::_exit(1);
  ::prctl(PR_SET_PDEATHSIG, 0);
  ::munmap(reinterpret_cast<void*>(options.seed_base), Seed::kSize);
  for (const int signal : {SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGTSTP, SIGTTOU, SIGTTIN})
    ::signal(signal, SIG_IGN);  // they are for the tree
  for (int fd = options.file_base; fd < to.get(); ++fd)
    if (fd != control.get()) ::close(fd);
  report(to, "\n");
  keep(options, to);
}

// ---- In the conductor
// -----------------------------------------------------------------------------

void write_file(const std::string& path, const std::string& text) {
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid() ||
      ::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    throw_errno("cannot write {}", path);
}

void map_users(pid_t pid) {
  const std::string proc = fmt::format("/proc/{}/", pid);
  write_file(proc + "uid_map", fmt::format("{0} {0} 1\n", ::geteuid()));
  write_file(proc + "setgroups", "deny");
  write_file(proc + "gid_map", fmt::format("{0} {0} 1\n", ::getegid()));
}

// Up to and with the end of the line. "": nobody will write any more.
std::string read_line(const Fd& from) {
  std::string line;
  char byte = 0;
  while (::read(from.get(), &byte, 1) == 1) {
    line += byte;
    if (byte == '\n') break;
  }
  return line;
}

}  // namespace

Keeper::Keeper(const Options& options, const std::function<std::vector<Fd>()>& open_files)
    : pid_{}, seed_base_(options.seed_base) {
  PipeEnds reports = make_pipe(), controls = make_pipe();
  uint64_t flags = 0;
  if (options.own_pids) flags |= CLONE_NEWPID | CLONE_NEWNS;
  if (options.own_user) flags |= CLONE_NEWUSER;
  const pid_t pid = clone3({.flags = flags, .exit_signal = SIGCHLD});
  if (pid < 0) throw_errno("cannot start the process that keeps the tree");
  if (pid == 0) {
    reports.read.reset(), controls.write.reset();
    be_keeper(options, std::move(reports.write), std::move(controls.read), open_files);
  }
  pid_ = Pid{pid};
  report_ = std::move(reports.read), control_ = std::move(controls.write);
  reports.write.reset(), controls.read.reset();
  try {
    if (options.own_user) map_users(pid);
    write_all(control_.get(), std::as_bytes(std::span("", 1)), "a pipe");
    const std::string line = read_line(report_);
    if (line != "\n")
      throw Error("cannot restore the tree", line.empty() ? "the process that keeps it was killed"
                                                          : line.substr(0, line.size() - 1));
    why_no_clocks_ = std::string(trim(read_line(report_)));
  } catch (...) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, __WALL);
    throw;
  }
}

Keeper::~Keeper() {
  if (!holds_) return;
  ::kill(pid_.value, SIGKILL);
  ::waitpid(pid_.value, nullptr, __WALL);
}

Seed Keeper::take_root() {
  const auto children = ProcDirectory::of(pid_).children();
  if (children.size() != 1) throw Error("cannot restore the tree", "its first process is gone");
  auto task = Tracee::seize_if_alive(leader_of(children.front()), Seed::kOptions);
  if (!task) throw Error("cannot restore the tree", "its first process is gone");
  task->interrupt_if_alive();
  if (!task->wait_stop(kPatience))
    throw Error("cannot restore the tree", "its first process does not stop");
  return Seed(std::move(*task), seed_base_);
}

void Keeper::let_go() {
  write_all(control_.get(), std::as_bytes(std::span("", 1)), "a pipe");
  if (read_line(report_) != "\n")
    throw Error("cannot let the tree go", "the process that keeps it was killed");
  holds_ = false;
}

int Keeper::wait() {
  int status = 0;
  ssize_t n = -1;
  do {
    n = ::read(report_.get(), &status, sizeof status);
  } while (n < 0 && errno == EINTR);
  if (n != sizeof status)
    throw Error("cannot tell how the tree ended", "the process that keeps it was killed");
  return status;
}

}  // namespace snapgdb
