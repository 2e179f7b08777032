// Reading, writing, locks on files, and asynchronous input and output.

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <termios.h>
#include <unistd.h>

#include "blocking_family.h"

namespace target {
namespace {

using enum AfterStop;

int readable[2], full_pipe[2];
int terminal, terminal_master;
int counter, timer, ring;
int locked, waiting_for_lock, record_locked, waiting_for_record;
aio_context_t aio;

long wait_on_timer(uint64_t ns) {
  const itimerspec when{{}, as_timespec(ns)};
  timerfd_settime(timer, 0, &when, nullptr);
  uint64_t expirations;
  return read(timer, &expirations, sizeof expirations);
}

long wait_on_ring(uint64_t ns) {
  const timespec limit = as_timespec(ns);
  io_uring_getevents_arg argument{};
  argument.ts = reinterpret_cast<uint64_t>(&limit);
  return syscall(SYS_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG,
                 &argument, sizeof argument);
}

const BlockingCall kTimed[] = {
    {"timerfd", SYS_read, kGoesOn, {8}, wait_on_timer},
    {"io_getevents",
     SYS_io_getevents,
     kFails,
     {},
     [](uint64_t ns) {
       return with_limit(ns, [](timespec* t) {
         io_event event;
         return syscall(SYS_io_getevents, aio, 1, 1, &event, t);
       });
     }},
    {"io_uring_enter", SYS_io_uring_enter, kFails, {-1, ETIME}, wait_on_ring},
};

long read_byte(int fd) {
  char byte;
  return read(fd, &byte, 1);
}

long wait_for_lock_of(int fd) {
  flock64 lock{.l_type = F_WRLCK, .l_whence = SEEK_SET};
  return fcntl(fd, F_OFD_SETLKW, &lock);
}

const BlockingCall kEndless[] = {
    {"read",
     SYS_read,
     kGoesOn,
     {1},
     [](uint64_t) { return read_byte(readable[0]); },
     [](const Thread&) { setup("write", write(readable[1], "x", 1)); }},
    {"write",
     SYS_write,
     kGoesOn,
     {1},
     [](uint64_t) { return static_cast<long>(write(full_pipe[1], "x", 1)); },
     [](const Thread&) {
       char bytes[4096];
       setup("read", read(full_pipe[0], bytes, sizeof bytes));
     }},
    {"terminal",
     SYS_read,
     kGoesOn,
     {1},
     [](uint64_t) { return read_byte(terminal); },
     [](const Thread&) { setup("write", write(terminal_master, "x", 1)); }},
    {"eventfd",
     SYS_read,
     kGoesOn,
     {},
     [](uint64_t) {
       eventfd_t value;
       return static_cast<long>(eventfd_read(counter, &value));
     },
     [](const Thread&) { eventfd_write(counter, 1); }},
    {"flock",
     SYS_flock,
     kGoesOn,
     {},
     [](uint64_t) { return static_cast<long>(flock(waiting_for_lock, LOCK_EX)); },
     [](const Thread&) { flock(locked, LOCK_UN); }},
    {"record lock",
     SYS_fcntl,
     kGoesOn,
     {},
     [](uint64_t) { return wait_for_lock_of(waiting_for_record); },
     [](const Thread&) { close(record_locked); }},
};

void prepare_pipes_and_terminal() {
  setup("pipe2", pipe2(readable, O_CLOEXEC));
  setup("pipe2", pipe2(full_pipe, O_CLOEXEC | O_NONBLOCK));
  char bytes[4096] = {};
  while (write(full_pipe[1], bytes, sizeof bytes) > 0) {
  }
  setup("fcntl", fcntl(full_pipe[1], F_SETFL, 0));
  terminal_master = setup("posix_openpt", posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  setup("unlockpt", unlockpt(terminal_master));
  terminal =
      setup("open a terminal", open(ptsname(terminal_master), O_RDWR | O_NOCTTY | O_CLOEXEC));
  termios modes{};
  tcgetattr(terminal, &modes);
  cfmakeraw(&modes);
  tcsetattr(terminal, TCSANOW, &modes);
}

// Two descriptions of one file each: the first holds the lock that the second waits for.
void prepare_locks() {
  const auto file = [] { return setup("memfd_create", memfd_create("locks", MFD_CLOEXEC)); };
  const auto again = [](int fd) {
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    return setup("open", open(path.c_str(), O_RDWR | O_CLOEXEC));
  };
  locked = file();
  waiting_for_lock = again(locked);
  setup("flock", flock(locked, LOCK_EX));
  record_locked = file();
  waiting_for_record = again(record_locked);
  setup("F_OFD_SETLKW", static_cast<int>(wait_for_lock_of(record_locked)));
}

void prepare() {
  prepare_pipes_and_terminal();
  prepare_locks();
  counter = setup("eventfd", eventfd(0, EFD_CLOEXEC));
  timer = setup("timerfd_create", timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
  setup("io_setup", syscall(SYS_io_setup, 1, &aio));
  io_uring_params parameters{};
  ring = setup("io_uring_setup", syscall(SYS_io_uring_setup, 1, &parameters));
}

}  // namespace

const BlockingFamily kFileCalls{kTimed, kEndless, prepare};

}  // namespace target
