// A thread in each kind of blocking system call, which must go on properly after a stop.
//
// Calls with a time limit are made again and again, --round milliseconds each, and must take that
// long, however often they were interrupted: begun anew, they would take up to twice as long. Calls
// without one block from the start to the end. Before "ready" it says "thread PID TID CALL".
//
// signal(7) lists the calls that fail with EINTR after SIGSTOP and SIGCONT although no handler ran:
// epoll_wait, semop and sigtimedwait. A stop by a tracer does the same, so these may be repeated.

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "target.h"

namespace {

using target::now_ns;
using target::setup;

std::atomic<bool> ending{false};
uint64_t round_ns;

timespec as_timespec(uint64_t ns) {
  return {static_cast<time_t>(ns / 1000000000), static_cast<long>(ns % 1000000000)};
}

// ---- Calls with a time limit: result of one call that blocks for `ns` --------------------------

long sleep_relative(uint64_t ns) {
  const timespec time = as_timespec(ns);
  return nanosleep(&time, nullptr);
}

// clock_nanosleep(2) returns its error.
long sleep_absolute(uint64_t ns) {
  const timespec time = as_timespec(now_ns() + ns);
  errno = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr);
  return errno ? -1 : 0;
}

long expect_timeout(long result, int error) {
  if (result == 0 || errno == error) return 0;
  return result;
}

long wait_on_futex(uint64_t ns) {
  static const int word = 0;
  const timespec time = as_timespec(ns);
  return expect_timeout(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &time), ETIMEDOUT);
}

long wait_in_poll(uint64_t ns) {
  return poll(nullptr, 0, static_cast<int>(ns / 1000000));
}

long wait_in_select(uint64_t ns) {
  timespec time = as_timespec(ns);
  return pselect(0, nullptr, nullptr, nullptr, &time, nullptr);
}

// The three that may be interrupted go on with the time that is left.
long repeat_while_interrupted(uint64_t ns, int timeout_error, long (*call)(uint64_t left)) {
  const uint64_t end = now_ns() + ns;
  for (;;) {
    const uint64_t now = now_ns();
    const long result = call(end > now ? end - now : 0);
    if (result >= 0 || errno == timeout_error) return 0;
    if (errno != EINTR) return result;
  }
}

long wait_in_epoll(uint64_t ns) {
  static const int epoll = setup("epoll_create1", epoll_create1(EPOLL_CLOEXEC));
  return repeat_while_interrupted(ns, 0, [](uint64_t left) {
    epoll_event event;
    return static_cast<long>(epoll_wait(epoll, &event, 1, static_cast<int>(left / 1000000) + 1));
  });
}

int semaphores;

long wait_on_semaphore(uint64_t ns) {
  return repeat_while_interrupted(ns, EAGAIN, [](uint64_t left) {
    sembuf down{0, -1, 0};
    const timespec time = as_timespec(left);
    return static_cast<long>(semtimedop(semaphores, &down, 1, &time));
  });
}

long wait_for_signal(uint64_t ns) {
  return repeat_while_interrupted(ns, EAGAIN, [](uint64_t left) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    const timespec time = as_timespec(left);
    return static_cast<long>(sigtimedwait(&set, nullptr, &time));
  });
}

struct Timed {
  const char* name;
  long (*call)(uint64_t ns);
  // pselect6 goes on with the time that was left when it was interrupted: a stop comes on top.
  bool stop_prolongs = false;
};

constexpr Timed kTimed[] = {
    {"nanosleep", sleep_relative},      {"clock_nanosleep", sleep_absolute},
    {"futex", wait_on_futex},           {"poll", wait_in_poll},
    {"pselect6", wait_in_select, true}, {"epoll_wait", wait_in_epoll},
    {"semtimedop", wait_on_semaphore},  {"rt_sigtimedwait", wait_for_signal},
};

void repeat(const Timed& timed) {
  const uint64_t limit = timed.stop_prolongs ? UINT64_MAX : round_ns + round_ns * 3 / 4;
  while (!ending) {
    const uint64_t begin = now_ns();
    target::expect_call(timed.name, timed.call(round_ns));
    const uint64_t took = now_ns() - begin;
    if (took < round_ns || took > limit) {
      target::differs("%s of %lu ms took %lu ms", timed.name, round_ns / 1000000, took / 1000000);
    }
  }
}

// ---- Calls without one -----------------------------------------------------------------------

int pipe_ends[2];
int listener;
sockaddr_in listening_at;
pid_t child;
volatile sig_atomic_t signal_taken = 0;

void block_in_read() {
  char byte = 0;
  target::expect_equal("read", target::expect_call("read", read(pipe_ends[0], &byte, 1)), 1);
  target::expect_equal("the byte read", byte, 'x');
}

void block_in_accept() {
  const long fd = target::expect_call("accept", accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  if (fd >= 0) close(static_cast<int>(fd));
}

void block_in_recv() {
  char bytes[16];
  sockaddr_in from;
  socklen_t size = sizeof from;
  static const int fd = setup("socket", socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  setup("bind", bind(fd, reinterpret_cast<sockaddr*>(&listening_at), sizeof listening_at));
  const long length =
      recvfrom(fd, bytes, sizeof bytes, 0, reinterpret_cast<sockaddr*>(&from), &size);
  target::expect_equal("recvfrom", target::expect_call("recvfrom", length), 8);
}

void block_in_sigsuspend() {
  sigset_t none_but_usr1;
  sigfillset(&none_but_usr1);
  sigdelset(&none_but_usr1, SIGUSR1);
  if (sigsuspend(&none_but_usr1) != -1 || errno != EINTR) target::differs("sigsuspend returned");
  if (!signal_taken) target::differs("sigsuspend returned without the signal");
}

void block_in_wait() {
  int status = 0;
  target::expect_equal("wait4", waitpid(child, &status, 0), child);
  target::expect_equal("the child's status", status, 7 << 8);
}

pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t condition = PTHREAD_COND_INITIALIZER;

// With a limit on the real-time clock, an hour away: the fourth way the kernel keeps a time limit.
void block_on_condition() {
  const timespec limit{time(nullptr) + 3600, 0};
  pthread_mutex_lock(&mutex);
  while (!ending)
    target::expect_equal("the wait", pthread_cond_timedwait(&condition, &mutex, &limit), 0);
  pthread_mutex_unlock(&mutex);
}

void wake_condition(const target::Thread&) {
  pthread_mutex_lock(&mutex);
  pthread_cond_broadcast(&condition);
  pthread_mutex_unlock(&mutex);
}

struct Endless {
  const char* name;
  long system_call;
  void (*block)();
  void (*release)(const target::Thread& thread);
};

void connect_to_listener(int type, const char* data) {
  const int fd = setup("socket", socket(AF_INET, type, 0));
  setup("connect", connect(fd, reinterpret_cast<sockaddr*>(&listening_at), sizeof listening_at));
  if (data && write(fd, data, strlen(data)) < 0) target::differs("cannot write to the socket");
  close(fd);
}

const Endless kEndless[] = {
    {"read", SYS_read, block_in_read,
     [](const target::Thread&) { setup("write", write(pipe_ends[1], "x", 1)); }},
    {"accept", SYS_accept4, block_in_accept,
     [](const target::Thread&) { connect_to_listener(SOCK_STREAM, nullptr); }},
    {"recvfrom", SYS_recvfrom, block_in_recv,
     [](const target::Thread&) { connect_to_listener(SOCK_DGRAM, "datagram"); }},
    {"sigsuspend", SYS_rt_sigsuspend, block_in_sigsuspend,
     [](const target::Thread& thread) { thread.signal(SIGUSR1); }},
    {"wait4", SYS_wait4, block_in_wait, [](const target::Thread&) { kill(child, SIGUSR1); }},
    {"condition", SYS_futex, block_on_condition, wake_condition},
};

// ---- Set up and end --------------------------------------------------------------------------

// A child that exits with 7 when it is told to.
void start_child() {
  child = setup("fork", fork());
  if (child) return;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  struct sigaction action {};
  action.sa_handler = [](int) { _exit(7); };
  sigaction(SIGUSR1, &action, nullptr);
  for (;;) {
    pause();
    _exit(98);  // nothing but the signal may end pause(2)
  }
}

void set_up() {
  start_child();
  setup("pipe2", pipe2(pipe_ends, O_CLOEXEC));
  listener = setup("socket", socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  listening_at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof listening_at;
  setup("bind", bind(listener, reinterpret_cast<sockaddr*>(&listening_at), size));
  setup("listen", listen(listener, 1));
  getsockname(listener, reinterpret_cast<sockaddr*>(&listening_at), &size);
  semaphores = setup("semget", semget(IPC_PRIVATE, 1, 0600));
  struct sigaction action {};
  action.sa_handler = [](int) { signal_taken = 1; };
  setup("sigaction", sigaction(SIGUSR1, &action, nullptr));
}

}  // namespace

int main(int argc, char** argv) {
  target::prepare_end();
  round_ns = strtoull(target::option(argc, argv, "--round", "1000"), nullptr, 10) * 1000000;
  set_up();
  std::vector<target::Thread> threads;
  for (const Endless& endless : kEndless) {
    threads.emplace_back(endless.name, endless.block);
    target::wait_until_blocked(threads.back().tid(), endless.system_call);
  }
  for (const Timed& timed : kTimed) threads.emplace_back(timed.name, [&] { repeat(timed); });
  for (const target::Thread& thread : threads) target::say("thread %d %d", getpid(), thread.tid());
  target::ready();
  target::wait_for_end();

  ending = true;
  for (size_t i = 0; i < std::size(kEndless); ++i) kEndless[i].release(threads[i]);
  for (target::Thread& thread : threads) thread.join();
  semctl(semaphores, 0, IPC_RMID);
  return target::verdict();
}
