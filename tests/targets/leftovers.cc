// What programs seldom have: things without a name any more, what goes by another number than it
// was added by, registrations that only the kernel knows of. Each function sets something up, and
// returns what checks it at the end. With --root also what only root may do.

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <fstream>
#include <vector>

#include "target.h"

namespace {

using target::expect_call;
using target::expect_equal;
using target::setup;
using Check = std::function<void()>;

std::string in_scratch(const char* name) {
  const char* directory = getenv("TMPDIR");
  return std::string(directory ? directory : "/tmp") + "/" + name;
}

struct stat status_of(int fd) {
  struct stat status {};
  setup("fstat", fstat(fd, &status));
  return status;
}

bool has_text(int fd, const char* expected) {
  char text[64] = {};
  const ssize_t n = read(fd, text, sizeof text - 1);
  return n == static_cast<ssize_t>(strlen(expected)) && strcmp(text, expected) == 0;
}

// ---- Without a name -----------------------------------------------------------------------------

// Open, and the working directory too; a second process has only that.
Check removed_directory() {
  const std::string path = in_scratch("removed-directory");
  setup("mkdir", mkdir(path.c_str(), 0750));
  const int fd = setup("open", open(path.c_str(), O_RDONLY | O_DIRECTORY));
  int ends[2];
  setup("pipe", pipe(ends));
  setup("chdir", chdir(path.c_str()));
  const pid_t child = setup("fork", fork());
  if (child == 0) {
    close(fd), close(ends[1]);
    char byte, name[4096];
    const bool ended = read(ends[0], &byte, 1) == 0;
    _exit(ended && syscall(SYS_getcwd, name, sizeof name) < 0 && errno == ENOENT ? 0 : 1);
  }
  close(ends[0]);
  setup("rmdir", rmdir(path.c_str()));
  return [=] {
    close(ends[1]);
    target::expect_success_of(child);
    struct stat here {};
    setup("stat", stat(".", &here));
    const struct stat opened = status_of(fd);
    expect_equal("links of a removed directory", opened.st_nlink, 0);
    expect_equal("mode of a removed directory", opened.st_mode & 07777, 0750);
    expect_equal("inode of the working directory", here.st_ino, opened.st_ino);
    expect_equal("a name of the removed directory", access(path.c_str(), F_OK) == 0, false);
    expect_equal("making a file in it", openat(fd, "x", O_CREAT | O_RDWR, 0600) < 0, true);
  };
}

Check removed_fifo() {
  const std::string path = in_scratch("removed-fifo");
  setup("mkfifo", mkfifo(path.c_str(), 0640));
  const int both = setup("open", open(path.c_str(), O_RDWR | O_NONBLOCK));
  const int writer = setup("open", open(path.c_str(), O_WRONLY));
  setup("unlink", unlink(path.c_str()));
  setup("write", write(writer, "queued", 6));
  return [=] {
    expect_equal("what is queued in a removed FIFO", has_text(both, "queued"), true);
    expect_call("write", write(writer, "more", 4));
    expect_equal("what comes after it", has_text(both, "more"), true);
    expect_equal("links of a removed FIFO", status_of(both).st_nlink, 0);
    expect_equal("one FIFO", status_of(both).st_ino, status_of(writer).st_ino);
  };
}

Check removed_device() {
  const std::string path = in_scratch("removed-device");
  setup("mknod", mknod(path.c_str(), S_IFCHR | 0600, makedev(1, 5)));
  const int zero = setup("open", open(path.c_str(), O_RDONLY));
  setup("unlink", unlink(path.c_str()));
  return [=] {
    char byte = 1;
    expect_equal("reading /dev/zero by another name", read(zero, &byte, 1) == 1 && byte == 0, true);
    expect_equal("its links", status_of(zero).st_nlink, 0);
  };
}

Check symbolic_link(bool removed) {
  const std::string path = in_scratch(removed ? "removed-link" : "link");
  setup("symlink", symlink("nowhere", path.c_str()));
  const int link = setup("open", open(path.c_str(), O_PATH | O_NOFOLLOW));
  if (removed) unlink(path.c_str());
  return [=] {
    char text[64] = {};
    expect_call("readlinkat", readlinkat(link, "", text, sizeof text));
    expect_equal("where a symbolic link leads", strcmp(text, "nowhere"), 0);
    expect_equal("its names", status_of(link).st_nlink, removed ? 0 : 1);
    unlink(path.c_str());
  };
}

Check own_namespace() {
  const int space = setup("open", open("/proc/self/ns/uts", O_RDONLY));
  return [=] {
    struct stat own {};
    setup("stat", stat("/proc/self/ns/uts", &own));
    expect_equal("the namespace of a descriptor", status_of(space).st_ino, own.st_ino);
  };
}

// Pages that were not written to show what is written to the file.
Check private_view(int fd, const char* what) {
  constexpr size_t kPage = 4096;
  setup("ftruncate", ftruncate(fd, 2 * kPage));
  setup("pwrite", pwrite(fd, "one", 3, 0));
  auto* view =
      static_cast<char*>(mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
  if (view == MAP_FAILED) target::cannot("mmap");
  view[kPage] = 'o';
  return [=] {
    expect_equal(what, strcmp(view, "one"), 0);
    expect_call("pwrite", pwrite(fd, "two", 3, 0));
    expect_call("pwrite", pwrite(fd, "two", 3, kPage));
    expect_equal(what, strcmp(view, "two"), 0);
    expect_equal("a page of one's own", view[kPage] == 'o' && view[kPage + 1] == 0, true);
  };
}
Check view_of_memory_file() {
  return private_view(setup("memfd_create", memfd_create("view", 0)), "a view of a memfd");
}
Check view_of_shared_memory_file() {
  const int fd = setup("memfd_create", memfd_create("shared view", 0));
  const Check check = private_view(fd, "a view of a memfd that is mapped shared");
  if (mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED)
    target::cannot("mmap");
  return check;
}
Check view_of_removed_file() {
  const std::string path = in_scratch("removed-file");
  const int fd = setup("open", open(path.c_str(), O_RDWR | O_CREAT, 0600));
  setup("unlink", unlink(path.c_str()));
  return private_view(fd, "a view of a removed file");
}

// ---- By another number --------------------------------------------------------------------------

int ready_eventfd() {
  return setup("eventfd", eventfd(1, 0));
}

// The number by which something was added is closed, or something else's by now; the file lives on.
Check renumbered_epoll() {
  const int epoll = setup("epoll_create1", epoll_create1(0));
  const int moved = ready_eventfd(), replaced = ready_eventfd();
  const auto watch = [&](int fd, uint64_t data) {
    epoll_event event{};
    event.events = EPOLLIN, event.data.u64 = data;
    setup("epoll_ctl", epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
  };
  watch(moved, 1), watch(replaced, UINT64_MAX);
  const int moved_to = setup("dup", dup(moved)), replaced_to = setup("dup", dup(replaced));
  setup("close", close(moved));
  const int other = ready_eventfd();  // takes the number that became free
  setup("dup3", dup3(other, replaced, O_CLOEXEC));
  return [=] {
    epoll_event events[4];
    expect_equal("what is ready", expect_call("epoll_wait", epoll_wait(epoll, events, 4, 1000)), 2);
    expect_equal("data", events[0].data.u64 + events[1].data.u64, 0);
    uint64_t count;
    expect_call("read", read(moved_to, &count, sizeof count));
    expect_call("read", read(replaced_to, &count, sizeof count));
    expect_equal("what is ready then", epoll_wait(epoll, events, 4, 0), 0);
    expect_equal("flags of what has the number now", fcntl(replaced, F_GETFD), FD_CLOEXEC);
    expect_equal("what has the numbers now", read(other, &count, sizeof count), sizeof count);
  };
}

int watching(int epoll, int fd, uint32_t events, uint64_t data) {
  epoll_event event{};
  event.events = events, event.data.u64 = data;
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

// What is told, in ascending order of data.
std::vector<epoll_event> told_by(int epoll) {
  std::vector<epoll_event> events(8);
  const long n = expect_call("epoll_wait", epoll_wait(epoll, events.data(), 8, 0));
  events.resize(static_cast<size_t>(n));
  std::ranges::sort(events, {}, [](const epoll_event& event) { return event.data.u64; });
  return events;
}

// Told once, or until it changes; by several; and nothing of it again.
Check told_already() {
  const int epoll = setup("epoll_create1", epoll_create1(0));
  const int once = ready_eventfd(), changes = ready_eventfd(), both = ready_eventfd();
  int ends[2];
  setup("pipe", pipe(ends));
  setup("watch", watching(epoll, once, EPOLLIN | EPOLLONESHOT, 1));
  setup("watch", watching(epoll, changes, EPOLLIN | EPOLLET, 2));
  setup("watch", watching(epoll, both, EPOLLIN | EPOLLOUT | EPOLLET | EPOLLONESHOT, 3));
  setup("watch", watching(epoll, ends[0], EPOLLIN | EPOLLEXCLUSIVE | EPOLLET, 4));
  if (told_by(epoll).size() != 3) target::cannot("epoll_wait");
  return [=] {
    expect_equal("what was told before", told_by(epoll).size(), 0);
    const uint64_t more = 1;
    for (const int fd : {once, changes, both}) expect_call("write", write(fd, &more, sizeof more));
    expect_call("write", write(ends[1], "x", 1));
    const auto events = told_by(epoll);
    expect_equal("how many changes are told", events.size(), 2);
    if (events.size() != 2) return;
    expect_equal("who has changed", events[0].data.u64, 2);
    expect_equal("who has changed, too", events[1].data.u64, 4);
    epoll_event again{};
    again.events = EPOLLIN | EPOLLONESHOT, again.data.u64 = 5;
    expect_call("EPOLL_CTL_MOD", epoll_ctl(epoll, EPOLL_CTL_MOD, once, &again));
    expect_equal("who asked again", told_by(epoll).size(), 1);
    expect_equal("EPOLLEXCLUSIVE", epoll_ctl(epoll, EPOLL_CTL_MOD, ends[0], &again) < 0, true);
  };
}

// Something that was not told yet is told.
Check to_be_told() {
  const int epoll = setup("epoll_create1", epoll_create1(0)), changes = ready_eventfd();
  setup("watch", watching(epoll, changes, EPOLLIN | EPOLLET, 1));
  return [=] {
    expect_equal("what nobody was told", told_by(epoll).size(), 1);
    expect_equal("once", told_by(epoll).size(), 0);
  };
}

void send_over(int socket, std::initializer_list<int> fds) {
  std::vector<char> control(CMSG_SPACE(sizeof(int) * fds.size()));
  char byte = 'x';
  iovec data{&byte, 1};
  msghdr message{};
  message.msg_iov = &data, message.msg_iovlen = 1;
  message.msg_control = control.data(), message.msg_controllen = control.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
  std::copy(fds.begin(), fds.end(), reinterpret_cast<int*>(CMSG_DATA(header)));
  setup("sendmsg", sendmsg(socket, &message, 0));
}

std::vector<int> receive_from(int socket) {
  char control[256], byte;
  iovec data{&byte, 1};
  msghdr message{};
  message.msg_iov = &data, message.msg_iovlen = 1;
  message.msg_control = control, message.msg_controllen = sizeof control;
  if (expect_call("recvmsg", recvmsg(socket, &message, 0)) != 1) return {};
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  const auto* fds = reinterpret_cast<const int*>(CMSG_DATA(header));
  return {fds, fds + (header->cmsg_len - CMSG_LEN(0)) / sizeof(int)};
}

// The epoll, and what it watches, are in a message only; another one watches what is.
Check epoll_in_a_message() {
  int ends[2];
  setup("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
  const int epoll = setup("epoll_create1", epoll_create1(0)),
            kept = setup("epoll_create1", epoll_create1(0)), ready = ready_eventfd();
  setup("watch", watching(epoll, ready, EPOLLIN, 1));
  setup("watch", watching(kept, ready, EPOLLIN, 2));
  send_over(ends[0], {epoll, ready});
  setup("close", close(epoll)), setup("close", close(ready));
  return [=] {
    auto events = told_by(kept);
    expect_equal("what is known of a message's", events.size() == 1 && events[0].data.u64 == 2,
                 true);
    const auto fds = receive_from(ends[1]);
    expect_equal("descriptors in a message", fds.size(), 2);
    if (fds.size() != 2) return;
    events = told_by(fds[0]);
    expect_equal("what an epoll in a message knows", events.size() == 1 && events[0].data.u64 == 1,
                 true);
    uint64_t count;
    expect_call("read", read(fds[1], &count, sizeof count));
    expect_equal("what is told then", told_by(fds[0]).size() + told_by(kept).size(), 0);
  };
}

// Closed here, and open in a child that has no epoll.
Check watched_in_a_child() {
  const int epoll = setup("epoll_create1", epoll_create1(0)), ready = ready_eventfd();
  int ends[2];
  setup("watch", watching(epoll, ready, EPOLLIN, 7)), setup("pipe", pipe(ends));
  const pid_t child = setup("fork", fork());
  if (child == 0) {
    char byte;
    const int other = setup("dup2", dup2(ready, 300));
    for (int fd = 3; fd < other; ++fd)
      if (fd != ends[0]) close(fd);
    _exit(read(ends[0], &byte, 1) == 0 ? 0 : 1);
  }
  setup("close", close(ready)), setup("close", close(ends[0]));
  while (access(("/proc/" + std::to_string(child) + "/fd/" + std::to_string(ready)).c_str(),
                F_OK) == 0)
    target::sleep_ms(1);
  return [=] {
    const auto events = told_by(epoll);
    expect_equal("what is watched in a child", events.size() == 1 && events[0].data.u64 == 7, true);
    close(ends[1]);
    target::expect_success_of(child);
    expect_equal("what is watched after that", told_by(epoll).size(), 0);
  };
}

// ---- What the kernel keeps to itself ------------------------------------------------------------

std::string lock_owner(int fd) {
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(fd));
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("lock:")) return line.substr(0, line.find(" 0 EOF"));
  return "";
}

// A child's, on a description that it shares.
Check lock_of_a_child() {
  const std::string path = in_scratch("locked");
  const int fd = setup("open", open(path.c_str(), O_RDWR | O_CREAT, 0600));
  int ends[2], taken[2];
  setup("pipe", pipe(ends)), setup("pipe", pipe(taken));
  const pid_t child = setup("fork", fork());
  char byte = 0;
  if (child == 0) {
    for (int other = 3; other < 256; ++other)
      if (other != fd && other != ends[0] && other != taken[1]) close(other);
    const bool locked = flock(fd, LOCK_EX) == 0 && write(taken[1], "", 1) == 1;
    _exit(locked && read(ends[0], &byte, 1) == 0 ? 0 : 1);
  }
  setup("read", read(taken[0], &byte, 1));
  return [=] {
    const std::string line = lock_owner(fd);
    if (line.find(" " + std::to_string(child) + " ") == line.npos)
      target::differs("the lock of process %d is said to be: %s", child, line.c_str());
    close(ends[1]);
    target::expect_success_of(child);
    unlink(path.c_str());
  };
}

long membarrier(int command) {
  return syscall(SYS_membarrier, command, 0, 0);
}

Check registered_for_barriers() {
  setup("membarrier", membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED));
  setup("membarrier", membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE));
  return [] {
    expect_call("a barrier", membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED));
    expect_call("a barrier", membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE));
  };
}

// Of these, the kernel answers only who gives it zeros for arguments that they do not have.
Check told_by_prctl() {
  setup("PR_SET_THP_DISABLE", prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
  constexpr int kSetDenyWriteExecute = 65, kGetDenyWriteExecute = 66;  // PR_SET_MDWE, Linux 6.3
  constexpr unsigned long kRefuseExecGain = 1, kNoInherit = 2;
  setup("PR_SET_MDWE", prctl(kSetDenyWriteExecute, kRefuseExecGain | kNoInherit, 0, 0, 0));
  setup("PR_MCE_KILL", prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
  return [] {
    expect_equal("PR_GET_THP_DISABLE", static_cast<uint64_t>(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0)),
                 1);
    expect_equal("PR_MCE_KILL_GET", static_cast<uint64_t>(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0)),
                 PR_MCE_KILL_EARLY);
    expect_equal("PR_GET_MDWE", static_cast<uint64_t>(prctl(kGetDenyWriteExecute, 0, 0, 0, 0)),
                 kRefuseExecGain | kNoInherit);
  };
}

void on_trap(int) {}

// Of the signals by which whoever restores stops the program.
Check pending_trap() {
  struct sigaction action {};
  action.sa_handler = on_trap, action.sa_flags = SA_RESTART;
  setup("sigaction", sigaction(SIGTRAP, &action, nullptr));
  sigset_t traps;
  sigemptyset(&traps), sigaddset(&traps, SIGTRAP);
  setup("sigprocmask", sigprocmask(SIG_BLOCK, &traps, nullptr));
  setup("kill", kill(getpid(), SIGTRAP));
  return [=] {
    const timespec at_once{};
    siginfo_t info{};
    expect_equal("the pending SIGTRAP",
                 expect_call("sigtimedwait", sigtimedwait(&traps, &info, &at_once)), SIGTRAP);
    expect_equal("who sent it", static_cast<uint64_t>(info.si_pid),
                 static_cast<uint64_t>(getpid()));
    struct sigaction now {};
    sigaction(SIGTRAP, nullptr, &now);
    expect_equal("the handler of SIGTRAP", now.sa_handler == on_trap, true);
  };
}

Check policy_of_children() {
  const sched_param none{};
  setup("sched_setscheduler", sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &none));
  return [] {
    expect_equal("the policy", static_cast<uint64_t>(sched_getscheduler(0)),
                 SCHED_BATCH | SCHED_RESET_ON_FORK);
  };
}

// Many, of which some were deleted: the kernel lists them in an order of its own.
Check many_timers() {
  std::vector<timer_t> timers(40);
  for (timer_t& timer : timers)
    setup("timer_create", timer_create(CLOCK_MONOTONIC, nullptr, &timer));
  for (size_t i = 0; i < timers.size(); i += 3) setup("timer_delete", timer_delete(timers[i]));
  return [=] {
    for (size_t i = 0; i < timers.size(); ++i) {
      itimerspec value{};
      expect_equal("whether there is a timer", timer_gettime(timers[i], &value) == 0, i % 3 != 0);
    }
  };
}

// ---- Asynchronous I/O ---------------------------------------------------------------------------

// An event that nobody took, in a ring that has been gone round in; and one more afterwards.
Check asynchronous_io() {
  aio_context_t context = 0;
  setup("io_setup", syscall(SYS_io_setup, 31, &context));
  const int file = setup("memfd_create", memfd_create("read", 0));
  setup("write", write(file, "content", 7));
  const auto submit = [=](char* to, uint64_t data) {
    iocb request{}, *list = &request;
    request.aio_fildes = static_cast<uint32_t>(file), request.aio_lio_opcode = IOCB_CMD_PREAD;
    request.aio_buf = reinterpret_cast<uint64_t>(to), request.aio_nbytes = 7;
    request.aio_data = data;
    return syscall(SYS_io_submit, context, 1, &list);
  };
  const auto take = [=](uint64_t data) {
    io_event event{};
    timespec at_once{};
    const long n = syscall(SYS_io_getevents, context, 0, 1, &event, &at_once);
    return n == 1 && event.data == data && event.res == 7;
  };
  static char buffer[8];
  for (uint64_t i = 0; i < 301; ++i) {
    setup("io_submit", submit(buffer, i));
    if (!take(i)) target::cannot("io_getevents");
  }
  setup("io_submit", submit(buffer, 7777));
  return [=] {
    expect_equal("the event that waited", take(7777), true);
    for (uint64_t i = 0; i < 301; ++i) {
      expect_equal("submitting more", static_cast<uint64_t>(submit(buffer, i)), 1);
      expect_equal("its event", take(i), true);
    }
    expect_call("io_destroy", syscall(SYS_io_destroy, context));
  };
}

// ---- In common with another process -------------------------------------------------------------

volatile int turn;

int live_in_common(void*) {
  syscall(SYS_close_range, 3, ~0u, 0);
  while (turn == 0) syscall(SYS_sched_yield);
  syscall(SYS_umask, 0123);
  struct {
    void (*handler)(int);
    uint64_t flags, restorer, mask;
  } action{SIG_IGN, 0, 0, 0};
  syscall(SYS_rt_sigaction, SIGUSR2, &action, nullptr, 8);
  _exit(9);
}

Check in_common() {
  constexpr size_t kStack = 64 << 10;
  auto* stack = static_cast<char*>(malloc(kStack));
  umask(0);
  const pid_t child = setup("clone", clone(live_in_common, stack + kStack,
                                           CLONE_VM | CLONE_FS | CLONE_SIGHAND | SIGCHLD, nullptr));
  return [=] {
    turn = 1;
    int status = 0;
    expect_equal("the child", static_cast<uint64_t>(waitpid(child, &status, 0)),
                 static_cast<uint64_t>(child));
    expect_equal("its status", static_cast<uint64_t>(status), 9 << 8);
    expect_equal("the umask that it has set", umask(0), 0123);
    struct sigaction now {};
    sigaction(SIGUSR2, nullptr, &now);
    expect_equal("the action that it has set", now.sa_handler == SIG_IGN, true);
  };
}

}  // namespace

int main(int argc, char** argv) {
  const bool is_root = argc > 1 && std::string(argv[1]) == "--root";
  target::prepare_end();
  std::vector<Check> checks{removed_directory(),    removed_fifo(),
                            symbolic_link(false),   own_namespace(),
                            view_of_memory_file(),  view_of_shared_memory_file(),
                            view_of_removed_file(), renumbered_epoll(),
                            lock_of_a_child(),      registered_for_barriers(),
                            told_by_prctl(),        pending_trap(),
                            policy_of_children(),   many_timers(),
                            asynchronous_io(),      in_common(),
                            told_already(),         to_be_told(),
                            epoll_in_a_message(),   watched_in_a_child(),
                            symbolic_link(true)};
  if (is_root) checks.push_back(removed_device());
  target::ready();
  target::wait_for_end();
  for (const Check& check : checks) check();
  return target::verdict();
}
