#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>

#include <algorithm>

#include "core/base/clock.h"
#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/task.h"
#include "core/resource/namespaces.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr unsigned long kSetTicks = _IOW('T', 0, uint64_t);  // TFD_IOC_SET_TICKS, Linux 3.17

bool matches(const OpenDescriptor& open) {
  return open.target == "anon_inode:[timerfd]";
}

// "(seconds, nanoseconds)"
uint64_t nanoseconds(std::string_view text) {
  const size_t comma = text.find(',');
  if (!text.starts_with('(') || !text.ends_with(')') || comma == std::string_view::npos) return 0;
  const auto whole = parse_number<uint64_t>(trim(text.substr(1, comma - 1)));
  const auto rest = parse_number<uint64_t>(trim(text.substr(comma + 1, text.size() - comma - 2)));
  return whole.value_or(0) * kSecond + rest.value_or(0);
}

uint64_t nanoseconds(const timespec& time) {
  return static_cast<uint64_t>(time.tv_sec) * kSecond + static_cast<uint64_t>(time.tv_nsec);
}

std::string info_now(const OpenDescriptor& open) {
  return open.process.task_proc.read(fmt::format("fdinfo/{}", open.number).c_str());
}

// Once a periodic one has expired, the kernel counts no further, and shows no time, until somebody
// asks for either (fs/timerfd.c, timerfd_read(), do_timerfd_gettime()). Asking changes nothing that
// reading it would not find the same: what is to be read stays.
void ask_what_is_left(CaptureContext& context, const OpenDescriptor& open, pb::TimerFd& timerfd) {
  const Fd same = duplicate_descriptor(open.process.a_task(), open.number);
  itimerspec left{};
  if (!same.valid() || ::timerfd_gettime(same.get(), &left) != 0)
    return context.lacks(open.process.pid, {},
                         fmt::format("time left of descriptor {}, {}", open.number, open.target),
                         "pidfd_getfd(2) is refused");
  const ProcFields now(info_now(open));
  timerfd.set_ticks(now.number("ticks"));
  timerfd.set_value_ns(std::max<uint64_t>(nanoseconds(left.it_value), 1));  // 0: it is due again
}

void record_time(const ProcFields& info, pb::TimerFd& timerfd) {
  timerfd.set_ticks(info.number("ticks"));
  timerfd.set_value_ns(nanoseconds(info.text("it_value")));
}

// One that is due, while its interrupt has not come yet, looks as if it had never been set.
void look_again(const OpenDescriptor& open, pb::TimerFd& timerfd) {
  constexpr int kLooks = 3;
  for (int looks = 0; looks < kLooks && !timerfd.ticks() && !timerfd.value_ns(); ++looks) {
    ::sched_yield();
    record_time(ProcFields(info_now(open)), timerfd);
  }
}

void capture(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::TimerFd& timerfd = *out.mutable_timerfd();
  timerfd.set_clock(static_cast<int32_t>(open.info.number("clockid")));
  timerfd.set_settime_flags(static_cast<uint32_t>(open.info.number("settime flags", 8)));
  timerfd.set_interval_ns(nanoseconds(open.info.text("it_interval")));
  record_time(open.info, timerfd);
  look_again(open, timerfd);
  const bool is_waiting = timerfd.ticks() && !timerfd.value_ns() && timerfd.interval_ns();
  if (is_waiting) ask_what_is_left(context, open, timerfd);
  if (timerfd.value_ns())
    timerfd.set_value_ns(timerfd.value_ns() + now_ns(CLOCK_MONOTONIC) - context.began_ns);
}

// ---- Restoring ----------------------------------------------------------------------------------

std::string obstacle(const Snapshot&, const pb::Descriptor&) {
  return "";
}

// Those that also wake up the machine are for who may do that outside, too (CAP_WAKE_ALARM).
int without_alarm(int clock) {
  return clock == CLOCK_REALTIME_ALARM   ? CLOCK_REALTIME
         : clock == CLOCK_BOOTTIME_ALARM ? CLOCK_BOOTTIME
                                         : clock;
}

Fd open_timerfd(OpeningContext&, const pb::Descriptor& descriptor) {
  const int clock = descriptor.timerfd().clock();
  const int flags = TFD_CLOEXEC | (descriptor.flags() & O_NONBLOCK ? TFD_NONBLOCK : 0);
  Fd fd(::timerfd_create(clock, flags));
  if (!fd.valid() && errno == EPERM) fd = Fd(::timerfd_create(without_alarm(clock), flags));
  if (!fd.valid()) throw_errno("cannot make a timerfd");
  return fd;
}

timespec to_timespec(int64_t ns) {
  return {.tv_sec = ns / kSecond, .tv_nsec = ns % kSecond};
}

// What the clocks of the tree show is set off against ours, by which we set a timer.
int64_t deadline(const RestoreContext& context, const pb::TimerFd& timerfd) {
  const pb::SnapshotRecord& record = context.snapshot.record();
  const auto left = static_cast<int64_t>(timerfd.value_ns());
  const int clock = without_alarm(timerfd.clock());
  if (clock == CLOCK_REALTIME) return record.realtime_ns() + left;
  return tree_clock(context.snapshot, clock) + left - clock_offset(context.keeper, clock) +
         clock_offset(leader_of(Pid{::getpid()}), clock);
}

void start(RestoreContext& context, const pb::Descriptor& descriptor, const Fd& fd) {
  const pb::TimerFd& timerfd = descriptor.timerfd();
  const int flags = static_cast<int>(timerfd.settime_flags());
  itimerspec value{.it_interval = to_timespec(static_cast<int64_t>(timerfd.interval_ns())),
                   .it_value = to_timespec(static_cast<int64_t>(timerfd.value_ns()))};
  if (timerfd.value_ns() && (flags & TFD_TIMER_ABSTIME))
    value.it_value = to_timespec(std::max<int64_t>(deadline(context, timerfd), 1));
  if (::timerfd_settime(fd.get(), flags, &value, nullptr) != 0)
    throw_errno("cannot set the timer of {}", called(descriptor));
  const uint64_t ticks = timerfd.ticks();
  if (ticks && ::ioctl(fd.get(), kSetTicks, &ticks) != 0)
    context.notes.push_back(fmt::format("{}: {} expiries of the timer are lost: {}",
                                        called(descriptor), ticks, errno_text(errno)));
  const ProcFields info(
      ProcDirectory::of(Pid{::getpid()}).read(fmt::format("fdinfo/{}", fd.get()).c_str()));
  if (info.number("clockid") != static_cast<uint64_t>(timerfd.clock()))
    context.notes.push_back(
        fmt::format("{}: the timer does not wake up the machine: that takes CAP_WAKE_ALARM outside "
                    "of a user namespace",
                    called(descriptor)));
}

}  // namespace

const DescriptorRestorer kTimerFdRestorer{
    .kind = pb::Descriptor::kTimerfd, .obstacle = obstacle, .open = open_timerfd, .start = start};
const DescriptorResource kTimerFd{"timerfd", matches, capture};

}  // namespace snapgdb
