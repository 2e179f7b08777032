#include "blocking.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace target {
namespace {

std::atomic<bool> ending{false};

// What the calls wait on; every endless one has its own.
struct {
  int pipe[2], full_pipe[2];
  int terminal, terminal_master;
  int eventfd, polled, timerfd, epoll, ring;
  int listener, datagrams, silent_socket, full_listener, connecting;
  int locked, waiting_for_lock, record_locked, waiting_for_record;
  int semaphores, messages;
  mqd_t queue;
  aio_context_t aio;
  pid_t child_of_wait4, child_of_waitid;
  sockaddr_in listening_at;
  uint32_t priority_word;  // a priority-inheriting futex that the main thread holds
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
  bool woken;
  pthread_mutex_t priority_mutex;
} on;

timespec as_timespec(uint64_t ns) {
  return {static_cast<time_t>(ns / 1000000000), static_cast<long>(ns % 1000000000)};
}

timespec from_now(clockid_t clock, uint64_t ns) {
  timespec now;
  clock_gettime(clock, &now);
  return as_timespec(static_cast<uint64_t>(now.tv_sec) * 1000000000 + now.tv_nsec + ns);
}

sigset_t only(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  return set;
}

sigset_t all_but(int signal) {
  sigset_t set;
  sigfillset(&set);
  sigdelset(&set, signal);
  return set;
}

// ---- With a time limit -----------------------------------------------------------------------

// For the calls that take a relative timespec. It must be writable: some leave in it what is left.
template <typename Call>
long with_limit(uint64_t ns, Call call) {
  timespec limit = as_timespec(ns);
  return call(&limit);
}

template <typename Call>
long until(clockid_t clock, uint64_t ns, Call call) {
  const timespec limit = from_now(clock, ns);
  return call(&limit);
}

const uint32_t kZeroWord = 0;

// Never zero, which to some means no limit.
timeval as_timeval(uint64_t ns) {
  const uint64_t us = std::max<uint64_t>(ns / 1000, 1);
  return {static_cast<time_t>(us / 1000000), static_cast<long>(us % 1000000)};
}

long wait_in_select(uint64_t ns) {
  timeval limit = as_timeval(ns);
  return syscall(SYS_select, 0, nullptr, nullptr, nullptr, &limit);
}

long wait_in_recv(uint64_t ns) {
  const timeval limit = as_timeval(ns);
  setup("SO_RCVTIMEO", setsockopt(on.silent_socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
  char byte;
  return recv(on.silent_socket, &byte, 1, 0);
}

long wait_on_timer(uint64_t ns) {
  const itimerspec when{{}, as_timespec(ns)};
  timerfd_settime(on.timerfd, 0, &when, nullptr);
  uint64_t expirations;
  return read(on.timerfd, &expirations, sizeof expirations);
}

long wait_on_ring(uint64_t ns) {
  const timespec limit = as_timespec(ns);
  io_uring_getevents_arg argument{};
  argument.ts = reinterpret_cast<uint64_t>(&limit);
  return syscall(SYS_io_uring_enter, on.ring, 0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG,
                 &argument, sizeof argument);
}

using enum AfterStop;

const BlockingCall kTimed[] = {
    {"nanosleep",
     SYS_nanosleep,
     kGoesOn,
     {},
     [](uint64_t ns) {
       return with_limit(ns, [](timespec* t) { return syscall(SYS_nanosleep, t, nullptr); });
     }},
    {"sleep relative",
     SYS_clock_nanosleep,
     kGoesOn,
     {},
     [](uint64_t ns) {
       return with_limit(ns, [](timespec* t) {
         return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, t, nullptr);
       });
     }},
    {"sleep absolute",
     SYS_clock_nanosleep,
     kGoesOn,
     {},
     [](uint64_t ns) {
       return until(CLOCK_MONOTONIC, ns, [](const timespec* t) {
         return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, t, nullptr);
       });
     }},
    {"futex relative",
     SYS_futex,
     kGoesOn,
     {-1, ETIMEDOUT},
     [](uint64_t ns) {
       return with_limit(ns, [](timespec* t) {
         return syscall(SYS_futex, &kZeroWord, FUTEX_WAIT_PRIVATE, 0, t);
       });
     }},
    {"futex absolute",
     SYS_futex,
     kGoesOn,
     {-1, ETIMEDOUT},
     [](uint64_t ns) {
       return until(CLOCK_MONOTONIC, ns, [](const timespec* t) {
         return syscall(SYS_futex, &kZeroWord, FUTEX_WAIT_BITSET_PRIVATE, 0, t, nullptr,
                        FUTEX_BITSET_MATCH_ANY);
       });
     }},
    {"futex PI",
     SYS_futex,
     kGoesOn,
     {-1, ETIMEDOUT},
     [](uint64_t ns) {
       return until(CLOCK_MONOTONIC, ns, [](const timespec* t) {
         return syscall(SYS_futex, &on.priority_word, FUTEX_LOCK_PI2_PRIVATE, 0, t);
       });
     }},
    {"poll",
     SYS_poll,
     kGoesOn,
     {},
     [](uint64_t ns) { return syscall(SYS_poll, nullptr, 0, static_cast<int>(ns / 1000000)); }},
    {"ppoll",
     SYS_ppoll,
     kGoesOnLonger,
     {},
     [](uint64_t ns) {
       return with_limit(ns,
                         [](timespec* t) { return syscall(SYS_ppoll, nullptr, 0, t, nullptr, 0); });
     }},
    {"select", SYS_select, kGoesOnLonger, {}, wait_in_select},
    {"pselect6",
     SYS_pselect6,
     kGoesOnLonger,
     {},
     [](uint64_t ns) {
       return with_limit(ns, [](timespec* t) {
         return syscall(SYS_pselect6, 0, nullptr, nullptr, nullptr, t, nullptr);
       });
     }},
    {"timerfd", SYS_read, kGoesOn, {8}, wait_on_timer},
    {"mq_receive",
     SYS_mq_timedreceive,
     kGoesOn,
     {-1, ETIMEDOUT},
     [](uint64_t ns) {
       return until(CLOCK_REALTIME, ns, [](const timespec* t) {
         char message[8];
         return static_cast<long>(mq_timedreceive(on.queue, message, sizeof message, nullptr, t));
       });
     }},
    {"epoll_wait",
     SYS_epoll_wait,
     kFails,
     {},
     [](uint64_t ns) {
       epoll_event event;
       return syscall(SYS_epoll_wait, on.epoll, &event, 1, static_cast<int>(ns / 1000000) + 1);
     }},
    {"epoll_pwait2",
     SYS_epoll_pwait2,
     kFails,
     {},
     [](uint64_t ns) {
       return with_limit(ns, [](timespec* t) {
         epoll_event event;
         return syscall(SYS_epoll_pwait2, on.epoll, &event, 1, t, nullptr, 0);
       });
     }},
    {"semtimedop",
     SYS_semtimedop,
     kFails,
     {-1, EAGAIN},
     [](uint64_t ns) {
       return with_limit(ns, [](timespec* t) {
         sembuf down{0, -1, 0};
         return static_cast<long>(semtimedop(on.semaphores, &down, 1, t));
       });
     }},
    {"sigtimedwait",
     SYS_rt_sigtimedwait,
     kFails,
     {-1, EAGAIN},
     [](uint64_t ns) {
       return with_limit(ns, [](timespec* t) {
         const sigset_t set = only(SIGUSR2);
         return static_cast<long>(sigtimedwait(&set, nullptr, t));
       });
     }},
    {"recv with limit", SYS_recvfrom, kFails, {-1, EAGAIN}, wait_in_recv},
    {"io_getevents",
     SYS_io_getevents,
     kFails,
     {},
     [](uint64_t ns) {
       return with_limit(ns, [](timespec* t) {
         io_event event;
         return syscall(SYS_io_getevents, on.aio, 1, 1, &event, t);
       });
     }},
    {"io_uring_enter", SYS_io_uring_enter, kFails, {-1, ETIME}, wait_on_ring},
};

// ---- Without one -----------------------------------------------------------------------------

long read_byte(int fd) {
  char byte;
  return read(fd, &byte, 1);
}

long wait_for_lock_of(int fd) {
  flock64 lock{.l_type = F_WRLCK, .l_whence = SEEK_SET};
  return fcntl(fd, F_OFD_SETLKW, &lock);
}

long receive_datagram(uint64_t) {
  char bytes[16];
  sockaddr_in from;
  socklen_t size = sizeof from;
  return recvfrom(on.datagrams, bytes, sizeof bytes, 0, reinterpret_cast<sockaddr*>(&from), &size);
}

long accept_and_close(uint64_t) {
  const int fd = accept4(on.listener, nullptr, nullptr, SOCK_CLOEXEC);
  return fd < 0 ? -1 : close(fd);
}

sockaddr_un address_of(int socket, socklen_t& size) {
  sockaddr_un address{};
  size = sizeof address;
  getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
  return address;
}

long connect_to_full_listener(uint64_t) {
  socklen_t size;
  const sockaddr_un address = address_of(on.full_listener, size);
  return connect(on.connecting, reinterpret_cast<const sockaddr*>(&address), size);
}

long wait_in_wait4(uint64_t) {
  int status = 0;
  const pid_t reaped = waitpid(on.child_of_wait4, &status, 0);
  return reaped == on.child_of_wait4 ? status : -1;
}

long wait_in_waitid(uint64_t) {
  siginfo_t info{};
  const int result = waitid(P_PID, on.child_of_waitid, &info, WEXITED);
  return result || info.si_code != CLD_EXITED ? -1 : info.si_status;
}

// With a limit on the real-time clock, an hour away: the fourth way the kernel keeps a time limit.
long wait_on_condition(uint64_t) {
  const timespec limit{time(nullptr) + 3600, 0};
  int error = 0;
  pthread_mutex_lock(&on.mutex);
  while (!on.woken && !error) error = pthread_cond_timedwait(&on.condition, &on.mutex, &limit);
  pthread_mutex_unlock(&on.mutex);
  return error;
}

void wake_condition(const Thread&) {
  pthread_mutex_lock(&on.mutex);
  on.woken = true;
  pthread_cond_broadcast(&on.condition);
  pthread_mutex_unlock(&on.mutex);
}

long take_priority_mutex(uint64_t) {
  const int error = pthread_mutex_lock(&on.priority_mutex);
  return error ? error : pthread_mutex_unlock(&on.priority_mutex);
}

// Signals are blocked in all threads: the one that waits must let its own in.
long wait_in_pause(uint64_t) {
  const sigset_t usr1 = only(SIGUSR1);
  pthread_sigmask(SIG_UNBLOCK, &usr1, nullptr);
  return syscall(SYS_pause);
}

struct Message {
  long type;
  char text[4];
};

long receive_message(uint64_t) {
  Message message;
  return msgrcv(on.messages, &message, sizeof message.text, 0, 0);
}

void send_message(const Thread&) {
  const Message message{1, "yes"};
  setup("msgsnd", msgsnd(on.messages, &message, sizeof message.text, 0));
}

void connect_to_listener(int type, const char* data) {
  const int fd = setup("socket", socket(AF_INET, type | SOCK_CLOEXEC, 0));
  setup("connect",
        connect(fd, reinterpret_cast<sockaddr*>(&on.listening_at), sizeof on.listening_at));
  if (data) setup("write", write(fd, data, strlen(data)));
  close(fd);
}

void signal_until_gone(const Thread& thread) {
  for (; thread.alive(); sleep_ms(1)) thread.signal(SIGUSR1);
}

const BlockingCall kEndless[] = {
    {"read",
     SYS_read,
     kGoesOn,
     {1},
     [](uint64_t) { return read_byte(on.pipe[0]); },
     [](const Thread&) { setup("write", write(on.pipe[1], "x", 1)); }},
    {"write",
     SYS_write,
     kGoesOn,
     {1},
     [](uint64_t) { return static_cast<long>(write(on.full_pipe[1], "x", 1)); },
     [](const Thread&) {
       char bytes[4096];
       setup("read", read(on.full_pipe[0], bytes, sizeof bytes));
     }},
    {"terminal",
     SYS_read,
     kGoesOn,
     {1},
     [](uint64_t) { return read_byte(on.terminal); },
     [](const Thread&) { setup("write", write(on.terminal_master, "x", 1)); }},
    {"eventfd",
     SYS_read,
     kGoesOn,
     {},
     [](uint64_t) {
       eventfd_t value;
       return static_cast<long>(eventfd_read(on.eventfd, &value));
     },
     [](const Thread&) { eventfd_write(on.eventfd, 1); }},
    {"poll endless",
     SYS_poll,
     kGoesOn,
     {1},
     [](uint64_t) {
       pollfd end{on.polled, POLLIN, 0};
       return syscall(SYS_poll, &end, 1, -1);
     },
     [](const Thread&) { eventfd_write(on.polled, 1); }},
    {"accept",
     SYS_accept4,
     kGoesOn,
     {},
     accept_and_close,
     [](const Thread&) { connect_to_listener(SOCK_STREAM, nullptr); }},
    {"connect",
     SYS_connect,
     kGoesOn,
     {},
     connect_to_full_listener,
     [](const Thread&) { close(accept(on.full_listener, nullptr, nullptr)); }},
    {"recvfrom",
     SYS_recvfrom,
     kGoesOn,
     {8},
     receive_datagram,
     [](const Thread&) { connect_to_listener(SOCK_DGRAM, "datagram"); }},
    {"sigsuspend",
     SYS_rt_sigsuspend,
     kGoesOn,
     {-1, EINTR},
     [](uint64_t) {
       const sigset_t mask = all_but(SIGUSR1);
       return static_cast<long>(sigsuspend(&mask));
     },
     signal_until_gone},
    {"pause", SYS_pause, kGoesOn, {-1, EINTR}, wait_in_pause, signal_until_gone},
    {"sigwaitinfo",
     SYS_rt_sigtimedwait,
     kFails,
     {SIGUSR2},
     [](uint64_t) {
       const sigset_t set = only(SIGUSR2);
       return static_cast<long>(sigwaitinfo(&set, nullptr));
     },
     [](const Thread& thread) { thread.signal(SIGUSR2); }},
    {"wait4",
     SYS_wait4,
     kGoesOn,
     {7 << 8},
     wait_in_wait4,
     [](const Thread&) { kill(on.child_of_wait4, SIGUSR1); }},
    {"waitid",
     SYS_waitid,
     kGoesOn,
     {7},
     wait_in_waitid,
     [](const Thread&) { kill(on.child_of_waitid, SIGUSR1); }},
    {"condition", SYS_futex, kGoesOn, {}, wait_on_condition, wake_condition},
    {"PI mutex",
     SYS_futex,
     kGoesOn,
     {},
     take_priority_mutex,
     [](const Thread&) { pthread_mutex_unlock(&on.priority_mutex); }},
    {"flock",
     SYS_flock,
     kGoesOn,
     {},
     [](uint64_t) { return static_cast<long>(flock(on.waiting_for_lock, LOCK_EX)); },
     [](const Thread&) { flock(on.locked, LOCK_UN); }},
    {"record lock",
     SYS_fcntl,
     kGoesOn,
     {},
     [](uint64_t) { return wait_for_lock_of(on.waiting_for_record); },
     [](const Thread&) { close(on.record_locked); }},
    {"msgrcv", SYS_msgrcv, kGoesOn, {4}, receive_message, send_message},
    {"semop",
     SYS_semop,
     kFails,
     {},
     [](uint64_t) {
       sembuf down{1, -1, 0};
       return syscall(SYS_semop, on.semaphores, &down, 1);
     },
     [](const Thread&) {
       sembuf up{1, 1, 0};
       semop(on.semaphores, &up, 1);
     }},
};

// ---- What they wait on -----------------------------------------------------------------------

// A child that exits with 7 when it is told to.
pid_t start_child() {
  const pid_t parent = getpid(), child = setup("fork", fork());
  if (child) return child;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  struct sigaction action {};
  action.sa_handler = [](int) { _exit(7); };
  sigaction(SIGUSR1, &action, nullptr);
  const sigset_t mask = all_but(SIGUSR1);
  if (getppid() == parent) sigsuspend(&mask);
  _exit(98);  // nothing but the signal may end the wait
}

void prepare_pipes_and_terminal() {
  setup("pipe2", pipe2(on.pipe, O_CLOEXEC));
  setup("pipe2", pipe2(on.full_pipe, O_CLOEXEC | O_NONBLOCK));
  char bytes[4096] = {};
  while (write(on.full_pipe[1], bytes, sizeof bytes) > 0) {
  }
  setup("fcntl", fcntl(on.full_pipe[1], F_SETFL, 0));
  on.terminal_master = setup("posix_openpt", posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  setup("unlockpt", unlockpt(on.terminal_master));
  on.terminal =
      setup("open a terminal", open(ptsname(on.terminal_master), O_RDWR | O_NOCTTY | O_CLOEXEC));
  termios modes{};
  tcgetattr(on.terminal, &modes);
  cfmakeraw(&modes);
  tcsetattr(on.terminal, TCSANOW, &modes);
}

// A backlog of 0 takes one connection, which is made here; the next has to wait.
void prepare_full_listener() {
  const sockaddr_un any{.sun_family = AF_UNIX};  // autobind: a name of the kernel's choice
  on.full_listener = setup("socket", socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  setup("bind",
        bind(on.full_listener, reinterpret_cast<const sockaddr*>(&any), sizeof(sa_family_t)));
  setup("listen", listen(on.full_listener, 0));
  on.connecting = setup("socket", socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  setup("connect", static_cast<int>(connect_to_full_listener(0)));
  on.connecting = setup("socket", socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

void prepare_sockets() {
  on.listener = setup("socket", socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  on.listening_at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof on.listening_at;
  const auto address = reinterpret_cast<sockaddr*>(&on.listening_at);
  setup("bind", bind(on.listener, address, size));
  setup("listen", listen(on.listener, 1));
  getsockname(on.listener, address, &size);
  on.datagrams = setup("socket", socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  setup("bind", bind(on.datagrams, address, size));
  on.silent_socket = setup("socket", socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  prepare_full_listener();
}

// Two descriptions of one file each: the first holds the lock that the second waits for.
void prepare_locks() {
  const auto file = [] { return setup("memfd_create", memfd_create("locks", MFD_CLOEXEC)); };
  const auto again = [](int fd) {
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    return setup("open", open(path.c_str(), O_RDWR | O_CLOEXEC));
  };
  on.locked = file();
  on.waiting_for_lock = again(on.locked);
  setup("flock", flock(on.locked, LOCK_EX));
  on.record_locked = file();
  on.waiting_for_record = again(on.record_locked);
  setup("F_OFD_SETLKW", static_cast<int>(wait_for_lock_of(on.record_locked)));
}

void prepare_priority_inheritance() {
  on.priority_word = static_cast<uint32_t>(thread_id());
  pthread_mutexattr_t inherit;
  pthread_mutexattr_init(&inherit);
  pthread_mutexattr_setprotocol(&inherit, PTHREAD_PRIO_INHERIT);
  pthread_mutex_init(&on.priority_mutex, &inherit);
  pthread_mutex_lock(&on.priority_mutex);
}

// The name is gone before anyone can see it.
mqd_t open_message_queue() {
  const std::string name = "/snapgdb-target-" + std::to_string(getpid());
  mq_attr attributes{};
  attributes.mq_maxmsg = 1;
  attributes.mq_msgsize = 8;
  const mqd_t queue =
      mq_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600, &attributes);
  setup("mq_open", queue);
  mq_unlink(name.c_str());
  return queue;
}

void check_endless(const BlockingCall& call) {
  Outcome outcome;
  do {
    outcome = outcome_of(call, 0);
  } while (call.after_stop == kFails && outcome.error == EINTR);
  if (!ending) differs("%s returned before it was released", call.name);
  if (outcome != call.expected)
    differs("%s gave %ld (%s)", call.name, outcome.result, strerror(outcome.error));
}

void check_timed(const BlockingCall& call, uint64_t round_ns, uint64_t late_ns) {
  const uint64_t begin = now_ns(), end = begin + round_ns;
  Outcome outcome;
  do {
    const uint64_t now = now_ns();
    outcome = outcome_of(call, end > now ? end - now : 0);
  } while (call.after_stop == kFails && outcome.error == EINTR);
  const uint64_t took = now_ns() - begin;
  if (outcome != call.expected)
    differs("%s gave %ld (%s)", call.name, outcome.result, strerror(outcome.error));
  if (took + kTickNs < round_ns || (call.after_stop != kGoesOnLonger && took > round_ns + late_ns))
    differs("%s of %lu ms took %lu ms", call.name, round_ns / 1000000, took / 1000000);
}

}  // namespace

void prepare_blocking() {
  on.child_of_wait4 = start_child();
  on.child_of_waitid = start_child();
  prepare_pipes_and_terminal();
  prepare_sockets();
  prepare_locks();
  prepare_priority_inheritance();
  on.eventfd = setup("eventfd", eventfd(0, EFD_CLOEXEC));
  on.polled = setup("eventfd", eventfd(0, EFD_CLOEXEC));
  on.timerfd = setup("timerfd_create", timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
  on.epoll = setup("epoll_create1", epoll_create1(EPOLL_CLOEXEC));
  on.semaphores = setup("semget", semget(IPC_PRIVATE, 2, 0600));
  on.messages = setup("msgget", msgget(IPC_PRIVATE, 0600));
  on.queue = open_message_queue();
  setup("io_setup", syscall(SYS_io_setup, 1, &on.aio));
  io_uring_params parameters{};
  on.ring = setup("io_uring_setup", syscall(SYS_io_uring_setup, 1, &parameters));
  struct sigaction action {};
  action.sa_handler = [](int) {};
  setup("sigaction", sigaction(SIGUSR1, &action, nullptr));
}

std::span<const BlockingCall> timed_calls() {
  return kTimed;
}
std::span<const BlockingCall> endless_calls() {
  return kEndless;
}

void end_blocking() {
  semctl(on.semaphores, 0, IPC_RMID);
  msgctl(on.messages, IPC_RMID, nullptr);
}

Outcome outcome_of(const BlockingCall& call, uint64_t ns) {
  const long result = call.call(ns);
  return {result, result < 0 ? errno : 0};
}

BlockedThreads::BlockedThreads(uint64_t round_ns, uint64_t late_ns) {
  prepare_blocking();
  threads_.reserve(std::size(kEndless) + std::size(kTimed));
  for (const BlockingCall& call : kEndless) {
    threads_.emplace_back(call.name, [&] { check_endless(call); });
    wait_until_blocked(threads_.back().tid(), call.system_call);
  }
  for (const BlockingCall& call : kTimed)
    threads_.emplace_back(call.name, [&call, round_ns, late_ns] {
      while (!ending) check_timed(call, round_ns, late_ns);
    });
}

BlockedThreads::~BlockedThreads() = default;

void BlockedThreads::finish() {
  ending = true;
  for (size_t i = 0; i < std::size(kEndless); ++i) kEndless[i].release(threads_[i]);
  for (Thread& thread : threads_) thread.join();
  end_blocking();
}

}  // namespace target
