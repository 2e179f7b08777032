#include "gdbstub/session_state.h"

#include <elf.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/image/link_map.h"

namespace snapgdb::gdbstub {
namespace {

bool has_threads(const Snapshot& snapshot, int32_t pid) {
  const pb::Process* process = snapshot.process(pid);
  return process && process->threads_size() > 0;
}

std::string list_of_pids(const Snapshot& snapshot) {
  std::string out;
  for (const pb::Process& process : snapshot.processes())
    out +=
        fmt::format("{}{} ({})", out.empty() ? "" : ", ", process.pid(), printable(process.name()));
  return out;
}

}  // namespace

Program program_of(const Target& target, Pid pid) {
  const std::string auxv = target.auxv(pid).value_or("");
  return {target.executable(pid).value_or(""), auxiliary_value(auxv, AT_ENTRY),
          auxiliary_value(auxv, AT_BASE)};
}

Pid first_process(const Snapshot& snapshot, std::optional<int32_t> wanted) {
  const pb::SnapshotRecord& record = snapshot.record();
  const int32_t fallback =
      has_threads(snapshot, record.focus_pid()) ? record.focus_pid() : record.root_pid();
  const int32_t pid = wanted.value_or(fallback);
  if (has_threads(snapshot, pid)) return Pid{pid};
  throw Error(fmt::format("cannot show process {}", pid),
              snapshot.process(pid) ? "nothing is left of it but its exit status"
                                    : "it is not in this snapshot",
              fmt::format("there are {}", list_of_pids(snapshot)));
}

bool SessionState::is_attached(Pid pid) const {
  return std::ranges::find(attached, pid) != attached.end();
}

bool SessionState::is_away(Pid pid) const {
  return std::ranges::find(away, pid) != away.end();
}

void SessionState::attach(Pid pid) {
  if (is_attached(pid))
    throw PacketError{kCannot, fmt::format("already attached to {}", pid.value)};
  if (running.target)
    running.target->attach(pid);
  else if (!snapshot->process(pid.value))
    throw PacketError{kNoSuchThread, fmt::format("process {} is not in the snapshot", pid.value)};
  if (target->threads(pid).empty())
    throw PacketError{kNoSuchThread, fmt::format("process {} has no threads left", pid.value)};
  attached.push_back(pid);
  std::erase(away, pid);
  chosen = false;  // gdb forgets its choice here too
  last_selected[pid] = target->focus(pid);
  programs.try_emplace(pid, program_of(*target, pid));
  select({pid, last_selected[pid]});
}

bool SessionState::is_mistaken(Pid pid) const {
  const auto known = programs.find(pid);
  return known != programs.end() && !target->threads(pid).empty() &&
         known->second != program_of(*target, pid);
}

void SessionState::detach(Pid pid) {
  std::erase(attached, pid);
  if (selected.pid != pid) return;
  chosen = false;
  selected = {};
  // Others may have ended as well, of which the client is to hear next.
  const auto has_threads = [&](Pid other) { return !target->threads(other).empty(); };
  const auto next = std::ranges::find_if(attached, has_threads);
  if (next != attached.end()) select(thread({next->value, -1}));
}

void SessionState::select(ThreadId thread) {
  selected = thread;
  last_selected[thread.pid] = thread.tid;
}

void SessionState::choose(const ThreadPattern& pattern) {
  chosen = true;
  const auto id = [](int64_t number) { return static_cast<pid_t>(std::max<int64_t>(number, 0)); };
  if (pattern.pid > 0) selected.pid = Pid{id(pattern.pid)};  // without: there is only one
  try {
    select(thread(pattern));
  } catch (const PacketError&) {
    selected.tid = Tid{id(pattern.tid)};
    throw;
  }
}

// gdb reads the auxiliary vector and memory of a new inferior while "any" thread is selected: those
// of the process that it has just named. A choice it made is never changed behind its back.
void SessionState::hint(Pid pid) {
  if (!chosen && is_attached(pid)) select(thread({pid.value, -1}));
}

ThreadId SessionState::thread(const ThreadPattern& pattern) const {
  const auto fits = [&](ThreadId candidate) {
    return (pattern.pid <= 0 || candidate.pid.value == pattern.pid) &&
           (pattern.tid <= 0 || candidate.tid.value == pattern.tid) && is_attached(candidate.pid) &&
           target->has(candidate);
  };
  if (fits(selected)) return selected;
  for (const Pid pid : attached) {
    if (pattern.tid > 0 && fits({pid, Tid{static_cast<pid_t>(pattern.tid)}}))
      return {pid, Tid{static_cast<pid_t>(pattern.tid)}};
    if (fits({pid, last_selected.at(pid)})) return {pid, last_selected.at(pid)};
    for (const Tid tid : target->threads(pid))  // the one looked at last is gone
      if (fits({pid, tid})) return {pid, tid};
  }
  throw PacketError{kNoSuchThread, "there is no such thread"};
}

ThreadId SessionState::selected_thread() const {
  if (chosen && !(is_attached(selected.pid) && target->has(selected)))
    throw PacketError{kNoSuchThread, "the thread that was selected is not there"};
  return thread({});
}

Pid SessionState::selected_process() const {
  if (!is_attached(selected.pid))
    throw PacketError{kNoSuchThread, "the process that was selected is not there"};
  return selected.pid;
}

std::vector<ThreadId> SessionState::threads(const ThreadPattern& pattern) const {
  std::vector<ThreadId> out;
  for (const Pid pid : attached) {
    if (pattern.pid > 0 && pid.value != pattern.pid) continue;
    for (const Tid tid : target->threads(pid))
      if (pattern.tid <= 0 || tid.value == pattern.tid) out.push_back({pid, tid});
  }
  return out;
}

std::string SessionState::text(ThreadId thread) const {
  if (!client.multiprocess) return fmt::format("{:x}", thread.tid.value);
  return fmt::format("p{:x}.{:x}", thread.pid.value, thread.tid.value);
}

}  // namespace snapgdb::gdbstub
