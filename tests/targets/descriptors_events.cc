#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cstring>

#include "descriptors.h"

namespace descriptors {
namespace {

using target::expect_equal;
using target::now_ns;
using target::setup;

uint64_t read_counter(int fd) {
  uint64_t value = 0;
  target::expect_call("read", read(fd, &value, sizeof value));
  return value;
}

void hold_eventfds(Holder& holder) {
  const int full = setup("eventfd", eventfd(0, EFD_NONBLOCK));
  const uint64_t most = UINT64_MAX - 1;
  setup("write", write(full, &most, sizeof most));
  holder.hold(300, "eventfd full", full,
              [] { expect_equal("eventfd", read_counter(300), UINT64_MAX - 1); });
  const int semaphore = setup("eventfd", eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK));
  holder.hold(301, "eventfd semaphore", semaphore, [] {
    for (int i = 0; i < 3; ++i) expect_equal("semaphore", read_counter(301), 1);
    uint64_t none;
    if (read(301, &none, sizeof none) >= 0) target::differs("the semaphore has a fourth token");
  });
}

uint64_t nanoseconds(const timespec& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1000000000 + time.tv_nsec;
}

void hold_timerfds(Holder& holder) {
  static constexpr itimerspec kRelative{{12, 345678901}, {3600, 999999999}};
  static uint64_t before, after;
  const int relative = setup("timerfd_create", timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  before = now_ns();
  setup("timerfd_settime", timerfd_settime(relative, 0, &kRelative, nullptr));
  after = now_ns();
  holder.hold(302, "timerfd relative", relative, [] {
    itimerspec seen{};
    const uint64_t earliest = now_ns();
    target::expect_call("timerfd_gettime", timerfd_gettime(302, &seen));
    const uint64_t latest = now_ns();
    const uint64_t left = nanoseconds(seen.it_value);
    const uint64_t set = nanoseconds(kRelative.it_value);
    if (left > set - (earliest - after) || left < set - (latest - before)) {
      target::differs("timerfd: %lu ns are left", left);
    }
    expect_equal("timerfd: interval", nanoseconds(seen.it_interval),
                 nanoseconds(kRelative.it_interval));
  });

  static constexpr itimerspec kAbsolute{{0, 0}, {4102444800, 5}};  // the year 2100
  const int absolute = setup("timerfd_create", timerfd_create(CLOCK_REALTIME, 0));
  setup("timerfd_settime", timerfd_settime(absolute, TFD_TIMER_ABSTIME, &kAbsolute, nullptr));
  holder.hold(303, "timerfd absolute", absolute, [] {});

  static constexpr itimerspec kExpired{{0, 0}, {0, 1}};
  const int expired = setup("timerfd_create", timerfd_create(CLOCK_BOOTTIME, 0));
  setup("timerfd_settime", timerfd_settime(expired, 0, &kExpired, nullptr));
  pollfd ready{expired, POLLIN, 0};
  setup("poll", poll(&ready, 1, -1));
  holder.hold(304, "timerfd expired", expired,
              [] { expect_equal("timerfd: expirations", read_counter(304), 1); });
}

void hold_signalfd(Holder& holder) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGRTMAX);
  setup("sigprocmask", sigprocmask(SIG_BLOCK, &set, nullptr));
  setup("sigqueue", sigqueue(getpid(), SIGRTMAX, sigval{.sival_int = 0x1234567}));
  holder.hold(305, "signalfd", setup("signalfd", signalfd(-1, &set, SFD_NONBLOCK)), [] {
    signalfd_siginfo info{};
    target::expect_call("read of signalfd", read(305, &info, sizeof info));
    expect_equal("pending signal", info.ssi_signo, SIGRTMAX);
    expect_equal("pending signal's value", info.ssi_int, 0x1234567);
  });
}

void watch(int epoll, int fd, uint32_t events, uint64_t data) {
  epoll_event event{events, {.u64 = data}};
  setup("epoll_ctl", epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

void hold_epolls(Holder& holder) {
  holder.hold(307, "eventfd watched", setup("eventfd", eventfd(0, 0)), [] {});
  const int inner = holder.hold(308, "epoll", setup("epoll_create1", epoll_create1(0)), [] {});
  watch(inner, 307, EPOLLIN | EPOLLONESHOT | EPOLLET, UINT64_MAX);
  watch(inner, 302, EPOLLIN | EPOLLPRI | EPOLLRDHUP, 0);
  const int outer = setup("epoll_create1", epoll_create1(0));
  watch(outer, inner, EPOLLIN, 0x0123456789abcdef);
  holder.hold(309, "epoll nested", outer, [] {
    epoll_event event{};
    expect_equal("epoll_wait before", epoll_wait(309, &event, 1, 0), 0);
    eventfd_write(307, 1);
    expect_equal("epoll_wait after", epoll_wait(309, &event, 1, 1000), 1);
    expect_equal("epoll data", event.data.u64, 0x0123456789abcdef);
    expect_equal("epoll_wait inside", epoll_wait(308, &event, 1, 0), 1);
    expect_equal("epoll data inside", event.data.u64, UINT64_MAX);
  });
}

void hold_inotify(Holder& holder) {
  const std::string path = holder.scratch().path("watched");
  close(setup("open", open(path.c_str(), O_CREAT | O_RDWR, 0600)));
  const int fd = setup("inotify_init1", inotify_init1(IN_NONBLOCK));
  setup("inotify_add_watch", inotify_add_watch(fd, path.c_str(), IN_MODIFY | IN_ATTRIB));
  holder.hold(310, "inotify", fd, [path] {
    if (truncate(path.c_str(), 77) < 0) target::differs("truncate failed");
    inotify_event event{};
    target::expect_call("read of inotify", read(310, &event, sizeof event));
    expect_equal("inotify: event", event.mask, IN_MODIFY);
  });
}

void hold_pidfd(Holder& holder, int child_pid) {
  const long fd = syscall(SYS_pidfd_open, child_pid, 0);
  holder.hold(311, "pidfd", setup("pidfd_open", fd), [] {
    target::expect_call("pidfd_send_signal", syscall(SYS_pidfd_send_signal, 311, 0, nullptr, 0));
  });
}

// Kinds that a snapshot may only be able to name. Not every kernel gives them to everyone.
void hold_others(Holder& holder) {
  const long userfault = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1 /* user mode only */);
  if (userfault >= 0) holder.hold(312, "userfaultfd", static_cast<int>(userfault), [] {});
  char parameters[120] = {};  // struct io_uring_params
  const long ring = syscall(SYS_io_uring_setup, 4, parameters);
  if (ring >= 0) holder.hold(313, "io_uring", static_cast<int>(ring), [] {});
}

}  // namespace

void hold_event_sources(Holder& holder, int child_pid) {
  hold_eventfds(holder);
  hold_timerfds(holder);
  hold_signalfd(holder);
  hold_epolls(holder);
  hold_inotify(holder);
  hold_pidfd(holder, child_pid);
  hold_others(holder);
}

}  // namespace descriptors
