// Waiting for any of several descriptors.

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "blocking_family.h"

namespace target {
namespace {

using enum AfterStop;

int polled, epoll;

long wait_in_select(uint64_t ns) {
  timeval limit = as_timeval(ns);
  return syscall(SYS_select, 0, nullptr, nullptr, nullptr, &limit);
}

const BlockingCall kTimed[] = {
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
    {"epoll_wait",
     SYS_epoll_wait,
     kFails,
     {},
     [](uint64_t ns) {
       epoll_event event;
       return syscall(SYS_epoll_wait, epoll, &event, 1, static_cast<int>(ns / 1000000) + 1);
     }},
    {"epoll_pwait2",
     SYS_epoll_pwait2,
     kFails,
     {},
     [](uint64_t ns) {
       return with_limit(ns, [](timespec* t) {
         epoll_event event;
         return syscall(SYS_epoll_pwait2, epoll, &event, 1, t, nullptr, 0);
       });
     }},
};

const BlockingCall kEndless[] = {
    {"poll endless",
     SYS_poll,
     kGoesOn,
     {1},
     [](uint64_t) {
       pollfd end{polled, POLLIN, 0};
       return syscall(SYS_poll, &end, 1, -1);
     },
     [](const Thread&) { eventfd_write(polled, 1); }},
};

void prepare() {
  polled = setup("eventfd", eventfd(0, EFD_CLOEXEC));
  epoll = setup("epoll_create1", epoll_create1(EPOLL_CLOEXEC));
}

}  // namespace

const BlockingFamily kPollCalls{kTimed, kEndless, prepare};

}  // namespace target
