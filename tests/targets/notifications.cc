// Descriptors that tell of something: timers of every clock and state, signals, counters, processes
// and threads, watched files, and epolls that watch them. Shared by a parent and its child.
//
// --alarms    also timers that wake up the machine (CAP_WAKE_ALARM)

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "target.h"

namespace {

using target::expect_equal;
using target::setup;
using Check = std::function<void()>;

constexpr uint64_t kSecond = 1'000'000'000;

uint64_t ns(const timespec& time) {
  return static_cast<uint64_t>(time.tv_sec) * kSecond + static_cast<uint64_t>(time.tv_nsec);
}

// The clocks that wake up the machine cannot be read where it has no such device.
uint64_t now(int clock) {
  timespec time{};
  if (clock == CLOCK_REALTIME_ALARM) clock = CLOCK_REALTIME;
  if (clock == CLOCK_BOOTTIME_ALARM) clock = CLOCK_BOOTTIME;
  clock_gettime(clock, &time);
  return ns(time);
}

timespec as_timespec(uint64_t ns) {
  return {static_cast<time_t>(ns / kSecond), static_cast<long>(ns % kSecond)};
}

bool is_ready(int fd, int milliseconds = 0) {
  pollfd one{fd, POLLIN, 0};
  return poll(&one, 1, milliseconds) == 1;
}

// 0: there is nothing to be read.
uint64_t read_count(int fd) {
  uint64_t count = 0;
  if (is_ready(fd)) target::expect_call("read", read(fd, &count, sizeof count));
  return count;
}

std::string described(int fd, const char* key) {
  char text[4096] = {};
  const int info =
      setup("open", open(("/proc/self/fdinfo/" + std::to_string(fd)).c_str(), O_RDONLY));
  setup("read", read(info, text, sizeof text - 1));
  close(info);
  const char* line = strstr(text, key);
  return line ? std::string(line, strcspn(line, "\n")) : "";
}

// ---- Timers -------------------------------------------------------------------------------------

int make_timer(int clock, int flags, uint64_t value, uint64_t interval) {
  const int fd = setup("timerfd_create", timerfd_create(clock, TFD_NONBLOCK));
  const itimerspec spec{as_timespec(interval), as_timespec(value)};
  setup("timerfd_settime", timerfd_settime(fd, flags, &spec, nullptr));
  return fd;
}

// It has `left`, of a clock that went on as CLOCK_MONOTONIC does, and not a quarter of an hour
// more.
Check armed(int fd, uint64_t left, uint64_t interval, const char* flags, uint64_t since) {
  return [=] {
    itimerspec seen{};
    target::expect_call("timerfd_gettime", timerfd_gettime(fd, &seen));
    if (ns(seen.it_value) == 0 || ns(seen.it_value) > left ||
        ns(seen.it_value) + (now(CLOCK_MONOTONIC) - since) + 900 * kSecond < left)
      target::differs("timer %d: %lu ns of %lu are left", fd, ns(seen.it_value), left);
    expect_equal("interval", ns(seen.it_interval), interval);
    expect_equal("ticks", read_count(fd), 0);
    const std::string line = described(fd, "settime flags:");
    if (line.find(flags) == std::string::npos) target::differs("timer %d: %s", fd, line.c_str());
  };
}

void hold_timers(bool alarms, std::vector<Check>& checks) {
  std::vector<int> clocks{CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME};
  if (alarms) clocks.insert(clocks.end(), {CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM});
  const uint64_t since = now(CLOCK_MONOTONIC);
  for (const int clock : clocks) {
    const uint64_t value = 5000 * kSecond + 999'999'999;
    const int fd = make_timer(clock, 0, value, kSecond / 7);
    checks.push_back(armed(fd, value, kSecond / 7, " 00", since));
    checks.push_back([=] {
      if (described(fd, "clockid:") != "clockid: " + std::to_string(clock))
        target::differs("a timer of clock %d: %s", clock, described(fd, "clockid:").c_str());
    });
    const uint64_t at = now(clock) + value;
    checks.push_back(armed(make_timer(clock, TFD_TIMER_ABSTIME, at, 0), value, 0, " 01", since));
  }
  checks.push_back(armed(make_timer(CLOCK_REALTIME, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET,
                                    now(CLOCK_REALTIME) + 9000 * kSecond, 1),
                         9000 * kSecond, 1, " 03", since));
}

// Absolute ones go off neither early nor much too late.
void hold_deadline(std::vector<Check>& checks) {
  for (const int clock : {CLOCK_MONOTONIC, CLOCK_BOOTTIME}) {
    const uint64_t at = now(clock) + 3 * kSecond;
    const int fd = make_timer(clock, TFD_TIMER_ABSTIME, at, 0);
    checks.push_back([=] {
      if (!is_ready(fd, 60'000)) target::differs("a deadline of clock %d did not come", clock);
      if (now(clock) < at) target::differs("a deadline of clock %d came early", clock);
      expect_equal("expiries of a deadline", read_count(fd), 1);
    });
  }
}

void hold_expired(std::vector<Check>& checks) {
  const int once = make_timer(CLOCK_MONOTONIC, 0, 1, 0);
  const int periodic = make_timer(CLOCK_MONOTONIC, 0, 1, kSecond / 100);
  const int always = make_timer(CLOCK_MONOTONIC, 0, 1, 1000);  // due again whenever one looks
  const uint64_t since = target::now_ns();
  const int off = make_timer(CLOCK_BOOTTIME, 0, 1000 * kSecond, 5 * kSecond);
  const itimerspec none{};
  setup("timerfd_settime", timerfd_settime(off, 0, &none, nullptr));
  const int many = make_timer(CLOCK_MONOTONIC, 0, 2000 * kSecond, 0);
  const uint64_t ticks = UINT64_MAX - 1;
  // Where the kernel has it.
  const bool set = ioctl(many, _IOW('T', 0, uint64_t), &ticks) == 0;
  for (const int fd : {once, periodic, always})
    if (!is_ready(fd, 10'000)) target::cannot("see a timer expire");
  checks.push_back([=] {
    expect_equal("expiries of a timer", read_count(once), 1);
    expect_equal("no more of them", is_ready(once), false);
    const uint64_t expected = (target::now_ns() - since) / (kSecond / 100);
    const uint64_t seen = read_count(periodic);
    if (seen + 2000 < expected || seen > expected + 2)
      target::differs("a periodic timer has expired %lu times, not %lu", seen, expected);
    if (!is_ready(periodic, 10'000)) target::differs("a periodic timer has stopped");
    if (read_count(always) == 0 || !is_ready(always, 10'000))
      target::differs("a timer that is always due has stopped");
    itimerspec seen_off{};
    target::expect_call("timerfd_gettime", timerfd_gettime(off, &seen_off));
    expect_equal("a timer that is off", ns(seen_off.it_value), 0);
    expect_equal("expiries of it", read_count(off), 0);
    if (set) expect_equal("the most expiries", read_count(many), UINT64_MAX - 1);
  });
}

// ---- Signals and counters -----------------------------------------------------------------------

void hold_signals(std::vector<Check>& checks) {
  sigset_t all;
  sigfillset(&all);
  setup("sigprocmask", sigprocmask(SIG_BLOCK, &all, nullptr));
  const uint64_t mask = ~uint64_t{0} & ~(1ul << (SIGTERM - 1)) & ~(1ul << (SIGCHLD - 1));
  const int fd = setup("signalfd4", syscall(SYS_signalfd4, -1, &mask, sizeof mask, SFD_NONBLOCK));
  sigset_t none;
  sigemptyset(&none);
  const int empty = setup("signalfd", signalfd(-1, &none, 0));
  setup("sigqueue", sigqueue(getpid(), SIGRTMAX, sigval{.sival_ptr = &checks}));
  setup("sigqueue", sigqueue(getpid(), SIGRTMAX, sigval{.sival_int = 2}));
  setup("tgkill", syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1));
  const std::string sigmask = described(fd, "sigmask:");
  const uint64_t pointer = reinterpret_cast<uint64_t>(&checks);
  checks.push_back([=] {
    expect_equal("an empty signalfd", is_ready(empty), false);
    if (described(fd, "sigmask:") != sigmask) target::differs("the mask of a signalfd");
    signalfd_siginfo infos[4] = {};
    expect_equal("signals", read(fd, infos, sizeof infos), 3 * sizeof infos[0]);
    expect_equal("a thread's signal", infos[0].ssi_signo, SIGUSR1);
    expect_equal("a queued signal", infos[1].ssi_signo, SIGRTMAX);
    expect_equal("its value", infos[1].ssi_ptr, pointer);
    expect_equal("the next one's", static_cast<uint64_t>(infos[2].ssi_int), 2);
    expect_equal("no more", read(fd, infos, sizeof infos) < 0 && errno == EAGAIN, true);
  });
}

void hold_counters(std::vector<Check>& checks) {
  const int full = setup("eventfd", eventfd(0, EFD_NONBLOCK));
  const uint64_t most = UINT64_MAX - 1;
  setup("write", write(full, &most, sizeof most));
  const int semaphore = setup("eventfd", eventfd(2, EFD_SEMAPHORE));
  const int same = setup("dup", dup(semaphore));
  checks.push_back([=] {
    const uint64_t one = 1;
    expect_equal("a full counter takes more", write(full, &one, sizeof one) > 0, false);
    expect_equal("the most", read_count(full), most);
    expect_equal("O_NONBLOCK", fcntl(full, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    expect_equal("O_NONBLOCK of another", fcntl(semaphore, F_GETFL) & O_NONBLOCK, 0);
    expect_equal("a semaphore", read_count(semaphore), 1);
    expect_equal("the same", read_count(same), 1);
    expect_equal("the end of it", read_count(semaphore), 0);
  });
}

// ---- Processes ----------------------------------------------------------------------------------

int open_process(pid_t pid, unsigned flags = 0) {
  return setup("pidfd_open", syscall(SYS_pidfd_open, pid, flags));
}

uint64_t inode(int fd) {
  struct stat status {};
  target::expect_call("fstat", fstat(fd, &status));
  return status.st_ino;
}

void hold_processes(pid_t child, pid_t zombie, std::vector<Check>& checks) {
  const int self = open_process(getpid(), O_NONBLOCK), same = setup("dup", dup(self));
  const int other = open_process(child), done = open_process(zombie);
  std::vector<int> dead;
  for (int i = 0; i < 2; ++i) {
    const pid_t gone = setup("fork", fork());
    if (gone == 0) _exit(3);
    dead.push_back(open_process(gone));
    if (i == 0) dead.push_back(open_process(gone));
    setup("waitpid", waitpid(gone, nullptr, 0));
  }
  const auto thread = std::make_shared<target::Thread>("pidfd", [] { pause(); });
  const long thread_fd = syscall(SYS_pidfd_open, thread->tid(), O_EXCL);  // Linux 6.9
  const bool knows_dead = inode(dead[0]) == inode(dead[1]) && inode(dead[0]) != inode(dead[2]);
  const auto describes = [](int fd, pid_t pid) {
    if (described(fd, "Pid:") != "Pid:\t" + std::to_string(pid))
      target::differs("descriptor %d is of %s, not %d", fd, described(fd, "Pid:").c_str(), pid);
  };
  checks.push_back([=] {
    describes(self, getpid());
    describes(same, getpid());
    expect_equal("PIDFD_NONBLOCK", fcntl(self, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    describes(other, child);
    describes(done, zombie);
    expect_equal("a living child", is_ready(other), false);
    expect_equal("a zombie", is_ready(done), true);
    siginfo_t info{};
    target::expect_call("waitid", waitid(P_PIDFD, static_cast<id_t>(done), &info, WEXITED));
    expect_equal("a zombie's status", info.si_status, 9);
    for (const int fd : dead) {
      describes(fd, -1);
      expect_equal("a dead one", is_ready(fd), true);
      expect_equal("a signal to it",
                   syscall(SYS_pidfd_send_signal, fd, 0, nullptr, 0) < 0 && errno == ESRCH, true);
    }
    if (knows_dead) {
      expect_equal("two of one that is dead", inode(dead[0]), inode(dead[1]));
      expect_equal("one of another", inode(dead[0]) == inode(dead[2]), false);
    }
    if (thread_fd < 0) return;
    describes(static_cast<int>(thread_fd), thread->tid());
    expect_equal("PIDFD_THREAD", fcntl(thread_fd, F_GETFL) & O_EXCL, O_EXCL);
    target::expect_call("pidfd_send_signal",
                        syscall(SYS_pidfd_send_signal, thread_fd, 0, nullptr, 0));
  });
}

// ---- Watched files ------------------------------------------------------------------------------

class Events {
 public:
  explicit Events(int fd) : fd_(fd) {}
  // The next one; of nothing if there is none.
  inotify_event next() {
    if (at_ == size_) at_ = 0, size_ = is_ready(fd_) ? read(fd_, buffer_, sizeof buffer_) : 0;
    if (size_ <= 0) return {};
    inotify_event event;
    memcpy(&event, buffer_ + at_, sizeof event);
    at_ += static_cast<ssize_t>(sizeof event + event.len);
    return event;
  }

 private:
  int fd_;
  alignas(8) char buffer_[4096];
  ssize_t at_ = 0, size_ = 0;
};

void hold_watches(const target::ScratchDirectory& scratch, std::vector<Check>& checks) {
  const std::string directory = scratch.path("watched"), file = directory + "/file";
  const std::string link = directory + "/link", once = directory + "/once";
  setup("mkdir", mkdir(directory.c_str(), 0700));
  for (const std::string& path : {file, once})
    close(setup("open", open(path.c_str(), O_CREAT | O_RDWR, 0600)));
  setup("symlink", symlink("file", link.c_str()));
  const int fd = setup("inotify_init1", inotify_init1(IN_NONBLOCK));
  const int idle = setup("inotify_init1", inotify_init1(0));
  const auto add = [&](const std::string& path, uint32_t mask) {
    return setup("inotify_add_watch", inotify_add_watch(fd, path.c_str(), mask));
  };
  for (int i = 0; i < 300; ++i)
    setup("inotify_rm_watch", inotify_rm_watch(fd, add(file, IN_ACCESS)));
  const int of_file = add(file, IN_MODIFY | IN_ATTRIB);
  add(link, IN_MODIFY);  // of the same file
  add(file, IN_ATTRIB | IN_MASK_ADD);
  const int of_directory = add(directory, IN_CREATE | IN_DELETE | IN_EXCL_UNLINK | IN_ONLYDIR);
  const int of_once = add(once, IN_MODIFY | IN_ONESHOT);
  const int of_root = add("/", IN_DELETE_SELF);
  const int of_link = add(link, IN_DELETE_SELF | IN_DONT_FOLLOW);
  char events[8192];
  while (is_ready(fd)) setup("read", read(fd, events, sizeof events));
  checks.push_back([=] {
    expect_equal("events of nothing", is_ready(idle), false);
    Events got(fd);
    expect_equal("events before", got.next().mask, 0);
    target::expect_call("truncate", truncate(file.c_str(), 77));
    inotify_event event = got.next();
    expect_equal("a change: watch", static_cast<uint64_t>(event.wd), of_file);
    expect_equal("a change", event.mask, IN_MODIFY);
    target::expect_call("chmod", chmod(file.c_str(), 0640));
    expect_equal("an attribute", got.next().mask, IN_ATTRIB);
    close(open((directory + "/new").c_str(), O_CREAT | O_RDWR, 0600));
    event = got.next();
    expect_equal("a new file: watch", static_cast<uint64_t>(event.wd), of_directory);
    expect_equal("a new file", event.mask, IN_CREATE);
    target::expect_call("truncate", truncate(once.c_str(), 1));
    event = got.next();
    expect_equal("once: watch", static_cast<uint64_t>(event.wd), of_once);
    expect_equal("once", event.mask, IN_MODIFY);
    expect_equal("once, the end", got.next().mask, IN_IGNORED);
    target::expect_call("inotify_rm_watch", inotify_rm_watch(fd, of_root));
    event = got.next();
    expect_equal("removed: watch", static_cast<uint64_t>(event.wd), of_root);
    expect_equal("removed", event.mask, IN_IGNORED);
    target::expect_call("inotify_rm_watch", inotify_rm_watch(fd, of_link));
    expect_equal("removed, of a link", static_cast<uint64_t>(got.next().wd), of_link);
    expect_equal("the end of it", got.next().mask, 0);
    for (const char* name : {"/new", "/link", "/file", "/once", ""})
      remove((directory + name).c_str());
  });
}

// More than one, the last with a name: they cannot be had from the kernel, so a restored program is
// told that some were lost.
void hold_unread(const target::ScratchDirectory& scratch, std::vector<Check>& checks) {
  const std::string directory = scratch.path("unread"), file = directory + "/file";
  setup("mkdir", mkdir(directory.c_str(), 0700));
  const int fd = setup("inotify_init1", inotify_init1(IN_NONBLOCK));
  const int watch =
      setup("inotify_add_watch", inotify_add_watch(fd, directory.c_str(), IN_CREATE | IN_DELETE));
  close(setup("open", open(file.c_str(), O_CREAT | O_RDWR, 0600)));
  setup("unlink", unlink(file.c_str()));
  checks.push_back([=] {
    Events got(fd);
    if (target::was_restored()) {
      const inotify_event lost = got.next();
      expect_equal("events that are lost", lost.mask, IN_Q_OVERFLOW);
      expect_equal("events that are lost: watch", lost.wd == -1, true);
    } else {
      expect_equal("an event that was not read", got.next().mask, IN_CREATE);
      expect_equal("another one", got.next().mask, IN_DELETE);
    }
    expect_equal("no more of them", got.next().mask, 0);
    const int next = inotify_add_watch(fd, "/", IN_DELETE_SELF);
    expect_equal("the number of the next watch", static_cast<uint64_t>(next), watch + 1);
    target::expect_call("mkdir", mkdir(file.c_str(), 0700));
    const inotify_event event = got.next();
    expect_equal("an event since: watch", static_cast<uint64_t>(event.wd), watch);
    expect_equal("an event since", event.mask, IN_CREATE | IN_ISDIR);
    rmdir(file.c_str()), rmdir(directory.c_str());
  });
}

// The next one of a group that tells by descriptors: what it says, and 0 if there is none.
uint64_t next_mask(int group) {
  fanotify_event_metadata event{};
  if (!is_ready(group) || read(group, &event, sizeof event) < 0) return 0;
  if (event.fd >= 0) close(event.fd);
  return event.mask;
}

void add_mark(int group, unsigned flags, uint64_t mask, const std::string& path) {
  setup("fanotify_mark", fanotify_mark(group, FAN_MARK_ADD | flags, mask, AT_FDCWD, path.c_str()));
}

// Of a file, of all in a directory, and of a file system with something left out. Root's.
void hold_fanotify(const target::ScratchDirectory& scratch, std::vector<Check>& checks) {
  const std::string directory = scratch.path("marked"), file = directory + "/file",
                    ignored = directory + "/ignored", gone = directory + "/gone";
  setup("mkdir", mkdir(directory.c_str(), 0700));
  for (const std::string& path : {file, ignored, gone})
    close(setup("open", open(path.c_str(), O_CREAT | O_RDWR, 0600)));
  const int kept = setup("open", open(gone.c_str(), O_RDWR));
  setup("unlink", unlink(gone.c_str()));
  const int group =
      setup("fanotify_init", fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK, O_RDONLY | O_NOATIME));
  add_mark(group, 0, FAN_MODIFY, file);
  add_mark(group, 0, FAN_MODIFY, "/proc/self/fd/" + std::to_string(kept));
  add_mark(group, FAN_MARK_ONLYDIR, FAN_CLOSE_WRITE | FAN_EVENT_ON_CHILD, directory);
  add_mark(group, FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY, FAN_CLOSE_WRITE, ignored);
  const int whole = setup("fanotify_init", fanotify_init(FAN_CLASS_CONTENT, O_RDONLY));
  add_mark(whole, FAN_MARK_FILESYSTEM, FAN_OPEN_EXEC, "/proc");
  add_mark(whole, FAN_MARK_MOUNT, FAN_OPEN_EXEC, "/proc");
  while (next_mask(group)) {
  }
  checks.push_back([=] {
    expect_equal("events of nothing marked", next_mask(group), 0);
    const int changed = setup("open", open(file.c_str(), O_WRONLY));
    target::expect_call("write", write(changed, "x", 1));
    expect_equal("a change of a marked file", next_mask(group), FAN_MODIFY);
    close(changed);
    while (next_mask(group)) {
    }
    target::expect_call("write", write(kept, "x", 1));
    expect_equal("a change of a marked file without a name", next_mask(group), FAN_MODIFY);
    close(open(ignored.c_str(), O_WRONLY));
    expect_equal("what is ignored", next_mask(group), 0);
    close(open((directory + "/new").c_str(), O_CREAT | O_WRONLY, 0600));
    expect_equal("a file in a marked directory", next_mask(group), FAN_CLOSE_WRITE);
    expect_equal("nothing in the other", is_ready(whole), false);
    for (const char* name : {"/new", "/ignored", "/file", ""}) remove((directory + name).c_str());
  });
}

}  // namespace

int main(int argc, char** argv) {
  const target::ScratchDirectory scratch;
  target::prepare_end();
  target::Family family;
  const pid_t zombie = setup("fork", fork());
  if (zombie == 0) _exit(9);
  siginfo_t info{};
  setup("waitid", waitid(P_PID, static_cast<id_t>(zombie), &info, WEXITED | WNOWAIT));
  int released[2];
  setup("pipe", pipe(released));
  const pid_t child = family.fork_child();
  if (child == 0) {
    // It has what its parent had before, by descriptors of its own.
    const int self = open_process(getpid()), parent = open_process(getppid());
    family.announce_ready();
    family.wait_for_end_of_family();
    if (described(self, "Pid:") != "Pid:\t" + std::to_string(getpid()))
      target::differs("a child is now %s", described(self, "Pid:").c_str());
    if (described(parent, "Pid:") != "Pid:\t" + std::to_string(getppid()))
      target::differs("a parent is now %s", described(parent, "Pid:").c_str());
    _exit(target::verdict());
  }
  std::vector<Check> checks;
  hold_deadline(checks);
  hold_timers(target::has_flag(argc, argv, "--alarms"), checks);
  hold_expired(checks);
  hold_signals(checks);
  hold_counters(checks);
  hold_processes(child, zombie, checks);
  hold_watches(scratch, checks);
  hold_unread(scratch, checks);
  if (target::has_flag(argc, argv, "--fanotify")) hold_fanotify(scratch, checks);
  family.wait_for_announcements(1);
  target::ready();
  target::wait_for_end();
  for (const Check& check : checks) check();
  family.end();
  target::expect_success_of(child);
  _exit(target::verdict());
}
