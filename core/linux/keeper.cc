#include "core/linux/keeper.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <iterator>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/child.h"
#include "core/linux/freezer.h"
#include "core/linux/procfs.h"
#include "core/linux/reopened.h"
#include "core/linux/task.h"

namespace snapgdb {
namespace {

constexpr std::chrono::seconds kPatience{10};

// ---- In the keeper ------------------------------------------------------------------------------

// What the parent reads: a line that says why it failed, or an empty one.
void report(const Fd& to, std::string_view line) {
  write_all(to.get(), std::as_bytes(std::span(line)), "a pipe");
}

// Whoever is born from now on sees them so. "": it worked.
std::string set_clocks(const Keeper::Options& options) {
  if (options.monotonic_ns == 0) return "";
  try {
    give_children_clocks(options.monotonic_ns, options.boottime_ns, options.our_clocks);
  } catch (const SystemError& error) {
    return error.what();
  }
  return "";
}

void expect_descriptors(int highest) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
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

// What the keeper says where somebody has the number of the first process.
constexpr const char* kTaken = "taken\n";

// Returns its number here; -1: somebody has the one that it had.
pid_t bear_root(const Keeper::Options& options) {
  const int32_t wanted = options.root_pid;
  PipeEnds parked = make_pipe();
  const Pid keeper{::getpid()};
  const pid_t pid = clone3(
      {.exit_signal = SIGCHLD, .set_tid = reinterpret_cast<uint64_t>(&wanted), .set_tid_size = 1});
  if (pid == 0) Seed::park_and_wait(options.seed_base, parked.write.get(), keeper);
  if (pid < 0 && errno == EEXIST) return -1;
  if (pid < 0) throw_errno("cannot make process {}", wanted);
  parked.write.reset();
  char byte = 0;
  if (::read(parked.read.get(), &byte, 1) != 1)
    throw Error(fmt::format("cannot prepare process {}", wanted), "it could not move the vDSO");
  return pid;
}

// The network of a sandbox has nothing but itself.
void start_loopback() {
  const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (!socket.valid() || ::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0)
    throw_errno("cannot start the loopback device of the sandbox");
}

// How many datagrams may wait in a unix socket of a network namespace.
constexpr const char* kDatagramsPath = "/proc/sys/net/unix/max_dgram_qlen";

struct Settings {
  std::string datagrams;
  IpcSettings ipc;
};

std::string datagrams_setting() {
  std::string value;
  std::getline(std::ifstream(kDatagramsPath), value);
  return value;
}

// Where one of ours cannot be set, what does not fit is said later.
std::vector<std::string> adopt(const Settings& ours, const Keeper::Options& options) {
  if (datagrams_setting() != ours.datagrams)
    std::ofstream(kDatagramsPath) << ours.datagrams << std::flush;
  set_ipc_settings(ours.ipc);
  return set_ipc_settings(options.ipc_settings);
}

// In a user namespace whose root is not ours: whoever is unknown there can make no files. The
// kernel keeps the rights (cap_emulate_setxuid(), security/commoncap.c), but not what /proc shows.
void become_known(const Keeper::Options& options) {
  if (::geteuid() == options.user && ::getegid() == options.group) return;
  if (::setresgid(options.group, options.group, options.group) != 0 ||
      ::setresuid(options.user, options.user, options.user) != 0)
    throw_errno("cannot become user {} of the tree's user namespace", options.user);
  ::prctl(PR_SET_DUMPABLE, 1);
}

std::optional<Sandbox> enter_sandbox(const Keeper::Options& options) {
  if (!options.sandbox) return std::nullopt;
  if (!options.make_network) start_loopback();
  return std::optional<Sandbox>(std::in_place, *options.sandbox);
}

struct KeptOpen {
  Fd report, control, save_in;
  Fd network = {};  // that we are in
  Fd mounts = {};   // of the sandbox, where the tree has others
};

// As the first process of a pid namespace sees them.
std::vector<std::string> make_mounts_of_init(const Keeper::Options& options) try {
  // The keeper's /proc is not the tree's.
  if (options.make_mounts && !options.sandbox) ::umount2("/proc", MNT_DETACH);
  if (options.make_mounts) return options.make_mounts();
  options.sandbox ? Sandbox::mount_proc("/proc") : see_own_processes();
  return {};
} catch (const std::exception& error) {
  throw Error("cannot make the tree's mounts", error.what());
}

// The mounts of the tree, if it has its own; and its first process, where that has to be there for
// them. The seed is planted.
std::optional<Init> enter_mounts(const Keeper::Options& options,
                                 const std::function<OpenedFiles()>& open, KeptOpen& kept,
                                 std::vector<std::string>& notes) {
  if (options.make_mounts && options.sandbox) {
    kept.mounts = Fd(::open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC));
    if (!kept.mounts.valid()) throw_errno("cannot hold the mounts of the sandbox");
  }
  if (options.root_pid == 1) {
    const Init::Tasks tasks{options.seed_base, [&] { return make_mounts_of_init(options); }, open};
    std::optional<Init> init(std::in_place, tasks, notes);
    if (options.make_mounts) init->enter_mounts();
    return init;
  }
  if (!options.make_mounts) return std::nullopt;
  if (::unshare(CLONE_NEWNS) != 0) throw_errno("cannot make a mount namespace");
  std::ranges::copy(options.make_mounts(), std::back_inserter(notes));
  return std::nullopt;
}

// What it wrote, saved and counted: "" and the number, or why not and 0.
std::pair<std::string, size_t> save(const Keeper::Options& options, const Sandbox* sandbox,
                                    const KeptOpen& kept) {
  if (!sandbox || !kept.save_in.valid()) return {};
  if (kept.mounts.valid() && ::setns(kept.mounts.get(), CLONE_NEWNS) != 0)
    return {"the sandbox cannot be entered again: " + errno_text(errno), 0};
  try {
    return {"", sandbox->save(kept.save_in, options.save_as)};
  } catch (const std::filesystem::filesystem_error& error) {
    return {error.what(), 0};
  }
}

// What we were started with is not ours to hold: who reads a pipe that was our output would wait
// for the end of the tree. What keeping needs stands above the tree's files.
void drop_descriptors(unsigned end) {
  const Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  for (const int standard : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (null.valid()) ::dup2(null.get(), standard);
  ::close_range(STDERR_FILENO + 1, end - 1, 0);
}

// What the keeper says each time that the first process has stopped.
constexpr const char* kStopped = "stopped\n";

// Reaps until the first process has ended, and says how; in a namespace of its own until there is
// nobody left.
[[noreturn]] void keep(pid_t root, const Keeper::Options& options, const Sandbox* sandbox,
                       const KeptOpen& kept) {
  // Nobody reads it if we were told to let go of the terminal.
  ::signal(SIGPIPE, SIG_IGN);
  const auto say = [&](std::string_view line) {
    [[maybe_unused]] const ssize_t n = ::write(kept.report.get(), line.data(), line.size());
  };
  int status = 0;
  while (true) {
    const pid_t pid = ::waitpid(-1, &status, __WALL | WUNTRACED);
    if (pid < 0 && errno == EINTR) continue;
    if (pid < 0) ::_exit(0);
    if (pid != root) continue;
    if (WIFSTOPPED(status)) {
      say(kStopped);
      continue;
    }
    const auto [not_saved, files] = save(options, sandbox, kept);
    say(fmt::format("{} {} {}\n", status, files, printable(not_saved)));
    if (!options.own_pids) ::_exit(0);
  }
}

constexpr char kGo = 0, kGoAlone = 1;  // Keeper::We
constexpr char kGoHeld = 2;            // Keeper::let_run()

[[noreturn]] void be_keeper(const Keeper::Options& options, KeptOpen kept,
                            const Settings& our_settings, const Keeper::OpenFiles& open_files) {
  char go = 0;
  std::optional<Sandbox> sandbox;
  size_t planned = 0;
  pid_t root = 0;
  try {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    // Seeds have this mask: signals have to come to them, to be dropped. A zombie's would be the
    // program's otherwise.
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    if (::read(kept.control.get(), &go, 1) != 1) ::_exit(1);
    if (!options.users.empty()) become_known(options);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // which a change of user takes away
    std::vector<std::string> notes = adopt(our_settings, options);
    if (options.put_into_cgroups && ::unshare(CLONE_NEWCGROUP) != 0)
      throw_errno("cannot make a cgroup namespace");
    if (options.names) name_host(*options.names);
    if (options.enter_ipc) options.enter_ipc();
    if (options.make_network)
      std::ranges::copy(options.make_network(kept.network), std::back_inserter(notes));
    kept.network.reset();
    if (options.make_spaces) std::ranges::copy(options.make_spaces(), std::back_inserter(notes));
    sandbox = enter_sandbox(options);
    if (options.own_pids && !sandbox) see_own_processes();
    if (sandbox) std::ranges::copy(sandbox->notes(), std::back_inserter(notes));
    if (const std::string why = set_clocks(options); !why.empty())
      notes.push_back("the tree's clocks jump: " + why);
    Seed::kernel_parts();
    Seed::plant(options.seed_base);
    std::optional<DescriptorsInReach> reach;
    if (options.root_pid != 1) reach.emplace();  // else of whoever opens the files
    const auto open = [&] { return open_files(sandbox ? &*sandbox : nullptr); };
    std::optional<Init> init = enter_mounts(options, open, kept, notes);
    auto [files, more_notes] = init ? init->open_files() : open();
    reach.reset();
    std::ranges::copy(more_notes, std::back_inserter(notes));
    planned = files.size();
    const int above = options.file_base + static_cast<int>(planned);
    expect_descriptors(above + static_cast<int>(planned) + 16);
    for (Fd* fd : {&kept.report, &kept.control, &kept.save_in, &kept.mounts})
      if (fd->valid()) *fd = moved_up(std::move(*fd), above);
    if (init) init->move_descriptors(above);
    if (sandbox) sandbox->move_descriptor(above);
    for (Fd& file : files) file = moved_up(std::move(file), above);
    place(std::move(files), options.file_base);
    if (init) init->go();
    root = init ? init->pid() : bear_root(options);
    if (root < 0) report(kept.report, kTaken), ::_exit(1);
    std::string lines = "\n";
    for (const std::string& note : notes) lines += note + "\n";
    report(kept.report, lines + "\n");
  } catch (const std::exception& error) {
    report(kept.report, fmt::format("{}\n", error.what()));
    ::_exit(1);
  }
  const auto drop_files = [&] {
    drop_descriptors(static_cast<unsigned>(options.file_base) + static_cast<unsigned>(planned));
    report(kept.report, "\n");
  };
  if (::read(kept.control.get(), &go, 1) != 1) ::_exit(1);
  if (go == kGoHeld) {
    ::signal(SIGCHLD, SIG_IGN);  // orphans of the tree are reaped
    drop_files();
    if (::read(kept.control.get(), &go, 1) != 1) ::_exit(1);
  }
  if (go == kGoAlone) ::setsid();
  ::prctl(PR_SET_PDEATHSIG, 0);
  ::munmap(reinterpret_cast<void*>(options.seed_base), Seed::kSize);
  for (const int signal : {SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGTSTP, SIGTTOU, SIGTTIN})
    ::signal(signal, SIG_IGN);  // they are for the tree
  drop_files();
  keep(root, options, sandbox ? &*sandbox : nullptr, kept);
}

// ---- In the conductor ---------------------------------------------------------------------------

void write_file(const std::string& path, const std::string& text) {
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid() ||
      ::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    throw_errno("cannot write {}", path);
}

// All that we have, under the same numbers (user_namespaces(7)).
std::string identity_map(const char* of_ours) {
  std::ifstream ranges(of_ours);
  std::string lines;
  for (uint64_t inside = 0, outside = 0, count = 0; ranges >> inside >> outside >> count;)
    lines += fmt::format("{0} {0} {1}\n", inside, count);
  return lines;
}

std::string map_of(const std::vector<Keeper::Options::Range>& ranges, const char* of_ours) {
  if (ranges.empty()) return identity_map(of_ours);
  std::string lines;
  for (const auto& range : ranges)
    lines += fmt::format("{} {} {}\n", range.inside, range.outside, range.count);
  return lines;
}

// Who is not root may give one user, and only where setgroups(2) is denied.
void map_users(pid_t pid, const Keeper::Options& options) {
  const std::string proc = fmt::format("/proc/{}/", pid);
  const bool is_root = ::geteuid() == 0;
  if (!is_root || options.deny_setgroups) write_file(proc + "setgroups", "deny");
  write_file(proc + "uid_map", is_root ? map_of(options.users, "/proc/self/uid_map")
                                       : fmt::format("{} {} 1\n", options.user, ::geteuid()));
  write_file(proc + "gid_map", is_root ? map_of(options.groups, "/proc/self/gid_map")
                                       : fmt::format("{} {} 1\n", options.group, ::getegid()));
}

// Up to and with the end of the line. "": nobody will write any more.
std::string read_line(const Fd& from) {
  std::string line;
  char byte = 0;
  ssize_t n = 0;
  while ((n = ::read(from.get(), &byte, 1)) == 1 || (n < 0 && errno == EINTR)) {
    if (n < 0) continue;
    line += byte;
    if (byte == '\n') break;
  }
  return line;
}

}  // namespace

Keeper::Keeper(const Options& options, const OpenFiles& open_files)
    : pid_{}, seed_base_(options.seed_base), stays_(options.own_pids) {
  PipeEnds reports = make_pipe(), controls = make_pipe();
  uint64_t flags = 0;
  if (options.own_pids) flags |= CLONE_NEWPID | CLONE_NEWNS;
  if (options.own_user) flags |= CLONE_NEWUSER;
  if (options.enter_ipc) flags |= CLONE_NEWIPC;
  if (options.sandbox || options.make_network) flags |= CLONE_NEWNET;
  if (options.names) flags |= CLONE_NEWUTS;
  if (options.own_cgroups && !options.put_into_cgroups) flags |= CLONE_NEWCGROUP;
  const Settings our_settings{.datagrams = datagrams_setting(), .ipc = ipc_settings()};
  Fd network(options.make_network ? ::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC) : -1);
  const pid_t pid = clone3({.flags = flags, .exit_signal = SIGCHLD});
  if (pid < 0) throw_errno("cannot start the process that keeps the tree");
  if (pid == 0) {
    reports.read.reset(), controls.write.reset();
    be_keeper(options,
              {std::move(reports.write), std::move(controls.read),
               Fd(options.save_in < 0 ? -1 : ::fcntl(options.save_in, F_DUPFD_CLOEXEC, 0)),
               std::move(network)},
              our_settings, open_files);
  }
  pid_ = Pid{pid};
  report_ = std::move(reports.read), control_ = std::move(controls.write);
  reports.write.reset(), controls.read.reset();
  try {
    if (options.own_user) map_users(pid, options);
    if (options.put_into_cgroups) options.put_into_cgroups(pid_);
    write_all(control_.get(), std::as_bytes(std::span("", 1)), "a pipe");
    std::string line = read_line(report_);
    if (line == kTaken)
      throw SystemError(fmt::format("cannot make process {}", options.root_pid), EEXIST);
    if (line != "\n")
      throw Error("cannot restore the tree", line.empty() ? "the process that keeps it was killed"
                                                          : line.substr(0, line.size() - 1));
    while ((line = std::string(trim(read_line(report_)))) != "") notes_.push_back(line);
  } catch (...) {
    ::kill(pid, SIGKILL);
    wait_for(pid);
    throw;
  }
}

Keeper::~Keeper() {
  if (!holds_) return;
  ::kill(pid_.value, SIGKILL);
  wait_for(pid_.value);
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

void Keeper::order(char what) {
  write_all(control_.get(), std::as_bytes(std::span(&what, 1)), "a pipe");
  if (read_line(report_) != "\n")
    throw Error("cannot let the tree go", "the process that keeps it was killed");
}

void Keeper::let_run() {
  order(kGoHeld);
}

void Keeper::let_go(We what) {
  order(what == We::kGo ? kGoAlone : kGo);
  holds_ = false;
}

Keeper::End Keeper::wait(const std::function<void()>& when_it_stops) {
  std::string line;
  while ((line = read_line(report_)) == kStopped) when_it_stops();
  End end;
  int behind = 0;
  if (::sscanf(line.c_str(), "%d %zu %n", &end.status, &end.files, &behind) != 2)
    throw Error("cannot tell how the tree ended", "the process that keeps it was killed");
  end.not_saved = trim(line.substr(static_cast<size_t>(behind)));
  if (!stays_) wait_for(pid_.value);
  return end;
}

}  // namespace snapgdb
