#include "core/linux/task.h"

#include <fcntl.h>
#include <linux/ioprio.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/error.h"
#include "core/base/strings.h"

namespace snapgdb {
namespace {

struct sched_attr_v0 {  // struct sched_attr, SCHED_ATTR_SIZE_VER0
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
};

int kcmp_type(Identities::Kind kind) {
  static constexpr int kTypes[] = {KCMP_FILE, KCMP_FILES,   KCMP_VM,
                                   KCMP_FS,   KCMP_SIGHAND, KCMP_SYSVSEM};
  return kTypes[static_cast<int>(kind)];
}

// kcmp orders kernel objects (by a scrambled address): 0 means equal, 1 less, 2 greater; negative:
// it is refused.
long compare(Identities::Kind kind, Tid tid, int number, Tid other, int other_number) {
  return ::syscall(SYS_kcmp, tid.value, other.value, kcmp_type(kind), number, other_number);
}

}  // namespace

namespace {

bool share(Identities::Kind kind, Tid a, Tid b) {
  return compare(kind, a, 0, b, 0) <= 0;
}

}  // namespace

bool share_directories(Tid a, Tid b) {
  return share(Identities::Kind::kFileSystem, a, b);
}
bool share_descriptors(Tid a, Tid b) {
  return share(Identities::Kind::kDescriptorTable, a, b);
}

bool share_semaphore_undo(Tid a, Tid b) {
  return share(Identities::Kind::kSemaphoreUndo, a, b);
}

bool leads_to(Tid tid, int number, const EpollSlot& slot) {
  kcmp_epoll_slot there{static_cast<uint32_t>(slot.epoll), static_cast<uint32_t>(slot.watched),
                        slot.nth};
  return ::syscall(SYS_kcmp, tid.value, slot.tid.value, KCMP_EPOLL_TFD, number, &there) == 0;
}

bool may_compare_files(Tid tid, int number) {
  return ::syscall(SYS_kcmp, tid.value, tid.value, KCMP_FILE, number, number) == 0;
}

std::optional<SchedulingAttributes> scheduling_of(Tid tid) {
  sched_attr_v0 attributes{};
  if (::syscall(SYS_sched_getattr, tid.value, &attributes, sizeof attributes, 0) != 0)
    return std::nullopt;
  return SchedulingAttributes{attributes.policy,   attributes.flags,   attributes.nice,
                              attributes.priority, attributes.runtime, attributes.deadline,
                              attributes.period};
}

std::optional<uint32_t> io_priority_of(Tid tid) {
  const long value = ::syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid.value);
  if (value < 0) return std::nullopt;
  return static_cast<uint32_t>(value);
}

// By the task's own number, since the file is missing below /proc/PID/task.
std::string timer_slack_file(Tid tid) {
  return fmt::format("../../../{}/timerslack_ns", tid.value);
}

std::optional<uint64_t> timer_slack_of(const ProcDirectory& task, Tid tid) {
  const auto text = task.read_if_allowed(timer_slack_file(tid).c_str());
  return text ? parse_number<uint64_t>(trim(*text)) : std::nullopt;
}

std::optional<RobustList> robust_list_of(Tid tid) {
  void* head = nullptr;
  size_t size = 0;
  if (::syscall(SYS_get_robust_list, tid.value, &head, &size) != 0) return std::nullopt;
  return RobustList{reinterpret_cast<uint64_t>(head), size};
}

Fd duplicate_descriptor(Tid tid, int number) {
  Fd process(static_cast<int>(::syscall(SYS_pidfd_open, tid.value, 0)));
  if (!process.valid())  // not a leader
    process = Fd(static_cast<int>(::syscall(SYS_pidfd_open, tid.value, kPidfdThread)));
  if (!process.valid()) return Fd();
  return Fd(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
}

// "monotonic   100   5", seconds and nanoseconds.
int64_t clock_offset(Tid tid, int clock) {
  const std::string text =
      ProcDirectory::of(Pid{tid.value}).read_if_allowed("timens_offsets").value_or("");
  for (const std::string_view line : split(text, '\n')) {
    const auto fields = split_blank(line);
    if (fields.size() != 3 || fields[0] != (clock == CLOCK_BOOTTIME ? "boottime" : "monotonic"))
      continue;
    return parse_number<int64_t>(fields[1]).value_or(0) * 1'000'000'000 +
           parse_number<int64_t>(fields[2]).value_or(0);
  }
  return 0;
}

bool Identities::Less::operator()(const Key& a, const Key& b) const {
  const long order = compare(kind, a.tid, a.number, b.tid, b.number);
  if (order < 0) return a < b;
  return order == 1;
}

uint32_t Identities::find_or_add(const Key& key) {
  return ids_.try_emplace(key, static_cast<uint32_t>(ids_.size() + 1)).first->second;
}

uint32_t Identities::of_ours(int number) {
  const std::lock_guard lock(mutex_);
  return find_or_add({leader_of(Pid{::getpid()}), number});
}

uint32_t Identities::of(Tid tid, int number) {
  const std::lock_guard lock(mutex_);
  const Key key{tid, number};
  if (kind_ != Kind::kFileDescription) return find_or_add(key);
  // Most descriptions are inherited: what stands under a number does so in the next process, too.
  auto& [known, id] = latest_[number];
  if (id == 0 || compare(kind_, known.tid, known.number, tid, number) != 0) id = find_or_add(key);
  known = key;
  return id;
}

}  // namespace snapgdb
