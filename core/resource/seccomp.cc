#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/linux/system_call_filter.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

using Chain = google::protobuf::RepeatedField<uint32_t>;

// The number of an equal one, or of a new one.
uint32_t index_of(const SystemCallFilter& filter, pb::Process& process) {
  const std::string program(reinterpret_cast<const char*>(filter.program.data()),
                            filter.program.size() * sizeof(sock_filter));
  auto& known = *process.mutable_seccomp_filters();
  const auto found = std::ranges::find_if(known, [&](const pb::SeccompFilter& other) {
    return other.program() == program && other.flags() == filter.flags;
  });
  if (found != known.end()) return static_cast<uint32_t>(found - known.begin());
  pb::SeccompFilter& added = *known.Add();
  added.set_program(program);
  added.set_flags(filter.flags);
  return static_cast<uint32_t>(known.size() - 1);
}

void capture_filters(CaptureContext& context, const FrozenProcess& frozen, const FrozenTask& task,
                     pb::Process& process) {
  const Tracee* tracee = context.tracee_of(task);
  if (!tracee) return;
  try {
    const auto filters = filters_of(*tracee);  // quicker than asking /proc whether there are any
    if (!filters) return;
    for (const SystemCallFilter& filter : *filters)
      context.filters[task.tid].push_back(index_of(filter, process));
  } catch (const SystemError& error) {
    if (error.error_number() != EACCES) throw;
    if (StoppedTask(frozen, task).status().number("Seccomp") != SECCOMP_MODE_FILTER) return;
    context.lacks(frozen.pid, task.tid, "seccomp filters", "reading them takes CAP_SYS_ADMIN");
  }
}

void capture_process(CaptureContext& context, const FrozenProcess& frozen, pb::Process& process) {
  for (const FrozenTask& task : frozen.tasks) capture_filters(context, frozen, task, process);
}

void capture_thread(CaptureContext& context, const StoppedTask& stopped, pb::Thread& thread) {
  if (const auto filters = context.filters.extract(stopped.task.tid); !filters.empty())
    thread.mutable_seccomp()->Add(filters.mapped().begin(), filters.mapped().end());
  const Tracee* tracee = context.tracee_of(stopped.task);
  const auto dispatch = tracee ? dispatch_of(*tracee) : std::nullopt;
  if (!dispatch) return;
  pb::SystemCallDispatch& out = *thread.mutable_system_call_dispatch();
  out.set_mode(dispatch->mode);
  out.set_offset(dispatch->offset);
  out.set_size(dispatch->size);
  out.set_selector(dispatch->selector);
}

// ---- Restoring ----------------------------------------------------------------------------------

bool has_leader(const pb::Process& process) {
  return process.threads(0).tid() == process.pid();
}

// What all threads have in common, they have by inheritance, or by SECCOMP_FILTER_FLAG_TSYNC, which
// later works only where it is still one chain. A first thread that is to exit alone stays without:
// filters might forbid it just that.
size_t shared_by_all(const pb::Process& process) {
  if (!has_leader(process)) return 0;
  const Chain& first = process.threads(0).seccomp();
  auto end = first.end();
  for (const pb::Thread& thread : process.threads())
    end = std::min(end, std::ranges::mismatch(first, thread.seccomp()).in1);
  return static_cast<size_t>(end - first.begin());
}

void add_filter(const pb::SeccompFilter& filter, uint64_t flags, Seed& seed) {
  // Up to 32 KiB: more than Seed::kMaxPut, so it is the only call of its list.
  const uint64_t program = seed.put(std::as_bytes(std::span(filter.program())));
  const struct {  // struct sock_fprog
    uint64_t length, program;
  } value{filter.program().size() / sizeof(sock_filter), program};
  seed.add("set a seccomp filter", SYS_seccomp,
           {SECCOMP_SET_MODE_FILTER, filter.flags() | flags, seed.put_value(value)});
  seed.perform();
}

// They are suspended (suspend_filters), and bind the task when it is let go. So they do not have to
// wait for the credentials, which may take away the right to set them.
void restore(RestoreContext&, const pb::Process& process, const pb::Thread& thread, Seed& seed) {
  seed.perform();
  if (thread.credentials().seccomp_mode() == SECCOMP_MODE_STRICT) {
    seed.call("set seccomp's strict mode", SYS_prctl, {PR_SET_SECCOMP, SECCOMP_MODE_STRICT});
    return;
  }
  // A thread that cannot be given it is an error, not a result (Linux 5.7).
  constexpr uint64_t kForAll = SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
  const size_t shared = shared_by_all(process);
  const bool is_first = &thread == &process.threads(0);
  for (size_t i = is_first ? 0 : shared; i < static_cast<size_t>(thread.seccomp_size()); ++i) {
    const auto index = static_cast<int>(thread.seccomp(static_cast<int>(i)));
    add_filter(process.seccomp_filters(index), i < shared ? kForAll : 0, seed);
  }
}

bool is_sound(const pb::Process& process, const pb::Thread& thread) {
  const auto is_known = [&](uint32_t index) {
    return index < static_cast<uint32_t>(process.seccomp_filters_size());
  };
  return thread.seccomp_size() > 0 && std::ranges::all_of(thread.seccomp(), is_known);
}

}  // namespace

bool has_filters(const Snapshot& snapshot) {
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Thread& thread : process.threads())
      if (thread.credentials().seccomp_mode()) return true;
  return false;
}

Obstacle seccomp_obstacle(const pb::Process& process, const pb::Thread& thread, bool is_root) {
  const uint32_t mode = thread.credentials().seccomp_mode();
  const auto because = [&](std::string why, std::string help = "") {
    return Obstacle{process.pid(), "seccomp", std::move(why), std::move(help)};
  };
  if (mode == SECCOMP_MODE_DISABLED) return {};
  if (mode == SECCOMP_MODE_FILTER && !is_sound(process, thread))
    return because("its filters are not in the image: reading them takes CAP_SYS_ADMIN",
                   "capture it as root");
  for (const uint32_t index : thread.seccomp()) {
    const std::string& bytes = process.seccomp_filters(static_cast<int>(index)).program();
    std::vector<sock_filter> program(bytes.size() / sizeof(sock_filter));
    std::memcpy(program.data(), bytes.data(), program.size() * sizeof(sock_filter));
    if (asks_supervisor(program))
      return because("a filter of its hands system calls to a supervisor (SECCOMP_RET_USER_NOTIF)");
  }
  if (!is_root) return because("suspending its filters takes CAP_SYS_ADMIN", "restore it as root");
  return {};
}

void restore_dispatch(const pb::Thread& thread, Tracee& task) {
  if (!thread.has_system_call_dispatch()) return;
  const pb::SystemCallDispatch& from = thread.system_call_dispatch();
  set_dispatch(task, {from.mode(), from.selector(), from.offset(), from.size()});
}

const ThreadRestorer kSeccompRestorer{"seccomp", restore};
const ProcessResource kSeccomp{"seccomp filters", capture_process, Means::kPtrace};
const ThreadResource kSeccompThread{"seccomp filters", capture_thread, Means::kPtrace};

}  // namespace snapgdb
