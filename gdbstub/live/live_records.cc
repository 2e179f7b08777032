#include <fcntl.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/freezer.h"
#include "core/linux/namespaces.h"
#include "core/linux/system_v.h"
#include "core/linux/task.h"
#include "gdbstub/live/live_target.h"

// What /proc tells of the tree that runs, in the form of a snapshot's records.
namespace snapgdb::gdbstub {
namespace {

void show(const ProcStat& stat, const ProcFields& status, pb::Thread& thread) {
  thread.set_name(stat.name);
  thread.set_state(std::string(1, stat.state));
  thread.set_cpu(stat.cpu);
  const auto users = split_blank(status.text("Uid"));  // real, effective, saved, of files
  constexpr size_t kEffective = 1;
  if (users.size() > kEffective)
    thread.mutable_credentials()->set_euid(parse_number<uint32_t>(users[kEffective]).value_or(0));
}

void show(const SocketDescription& socket, pb::Socket& out) {
  out.set_domain(socket.domain);
  out.set_type(socket.type);
  out.set_protocol(socket.protocol);
  out.set_local(socket.local);
  out.set_remote(socket.remote);
  out.set_state(socket.state);
  out.set_receive_queue(socket.receive_queue);
  out.set_send_queue(socket.send_queue);
}

void add_descriptors(Pid real, const ProcDirectory& proc, pb::Process& process) {
  auto names = proc.list("fd");
  std::ranges::sort(names, {}, [](const std::string& name) { return parse_number<int>(name); });
  for (const std::string& name : names) {
    const auto target = proc.link_if_allowed("fd/" + name);
    const auto number = parse_number<int32_t>(name);
    if (!target || !number) continue;
    pb::Descriptor& descriptor = *process.add_descriptors();
    descriptor.set_number(*number);
    descriptor.set_target(*target);
    if (!target->starts_with("socket:")) continue;
    const Fd socket = duplicate_descriptor(Tid{real.value}, *number);
    if (socket.valid()) show(describe_socket(socket), *descriptor.mutable_socket());
  }
}

void add_mappings(const ProcDirectory& proc, pb::Process& process) {
  for (const ProcMapping& mapping : parse_mappings(proc.read("maps"))) {
    pb::Vma& vma = *process.add_mappings();
    vma.set_start(mapping.start);
    vma.set_end(mapping.end);
    vma.set_offset(mapping.offset);
    vma.set_inode(mapping.inode);
    vma.set_protection(mapping.protection);
    vma.set_shared(mapping.shared);
    vma.set_name(mapping.name);
  }
}

// Of NUL-terminated strings, one after the other.
void add_arguments(const std::string& text, pb::Process& process) {
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\0', at), text.size());
    process.add_arguments(text.substr(at, end - at));
    at = end + 1;
  }
}

}  // namespace

LiveTarget::Free LiveTarget::Free::of(Pid real) {
  const auto stat = stat_of_if_alive(leader_of(real));
  return {real, stat ? stat->start_ticks : 0};
}

bool LiveTarget::Free::is_there() const {
  const auto stat = stat_of_if_alive(leader_of(real));
  return stat && stat->start_ticks == start_ticks;
}

// As the client knows it.
Pid LiveTarget::pid_of(Pid real, const ProcFields& status) const {
  for (const auto& [pid, process] : processes_)
    if (process.real == real) return pid;
  for (const auto& [pid, free] : free_)
    if (free.real == real && free.is_there()) return pid;
  return Pid{innermost(status.text("NStgid"))};
}

// nullopt: it has ended meanwhile.
std::optional<pb::Process> LiveTarget::record_of(Pid real) const {
  const auto proc = ProcDirectory::of_if_alive(real);
  if (!proc) return std::nullopt;
  try {
    const ProcStat stat = proc->stat();
    const ProcFields status(proc->read("status"));
    pb::Process process;
    process.set_pid(pid_of(real, status).value);
    const Pid parent{stat.parent};
    if (parent != tree_->keeper())
      process.set_parent(
          pid_of(parent, ProcFields(ProcDirectory::of(parent).read("status"))).value);
    process.set_group(innermost(status.text("NSpgid")));
    process.set_session(innermost(status.text("NSsid")));
    process.set_name(stat.name);
    process.set_state(std::string(1, stat.state));
    add_arguments(proc->read("cmdline"), process);
    for (const Tid tid : proc->tasks()) {
      const ProcDirectory task = proc->task(tid);
      const ProcFields of_task(task.read("status"));
      pb::Thread& thread = *process.add_threads();
      const auto known = by_real_.find(tid);
      thread.set_tid(known != by_real_.end()  ? known->second.tid.value
                     : tid == leader_of(real) ? process.pid()
                                              : innermost(of_task.text("NSpid")));
      show(task.stat(), of_task, thread);
    }
    if (stat.state == 'Z') return process;
    add_descriptors(real, *proc, process);
    add_mappings(*proc, process);
    return process;
  } catch (const SystemError& error) {
    if (error.error_number() != ESRCH && error.error_number() != ENOENT) throw;
    return std::nullopt;
  }
}

// Parents first, as in a snapshot.
std::vector<pb::Process> LiveTarget::records() const {
  std::vector<pb::Process> out;
  for (const Pid real : tree_below({tree_->keeper()}))
    if (real != tree_->keeper())
      if (auto record = record_of(real)) out.push_back(*std::move(record));
  return out;
}

IpcObjects LiveTarget::ipc_objects() const {
  IpcObjects out;
  if (threads_.empty()) return out;
  const auto shown = [this](const snapgdb::IpcObject& from) {
    IpcObject object{from.id,       from.key,          from.mode,          from.owner,
                     from.group,    from.creator,      from.creator_group, from.size,
                     from.messages, from.message_bytes};
    for (const int32_t pid : from.pids) {
      const auto known = by_real_.find(Tid{pid});
      object.pids.push_back(known != by_real_.end() ? known->second.pid.value : 0);
    }
    return object;
  };
  // A thread's: a first one that has exited has no namespaces any more.
  const Tid one = std::prev(threads_.end())->second.task.tid();
  const ProcDirectory proc = ProcDirectory::of(Pid{one.value});  // threads have a /proc/TID too
  in_namespace(proc.open("ns/ipc", O_RDONLY), "ipc", [&] {
    for (const auto& [kind, to] : {std::pair(IpcKind::kSharedMemory, &out.segments),
                                   std::pair(IpcKind::kSemaphores, &out.semaphores),
                                   std::pair(IpcKind::kMessages, &out.queues)})
      for (const auto& object : snapgdb::ipc_objects(kind)) to->push_back(shown(object));
    std::erase_if(out.semaphores, [](IpcObject& set) {
      try {
        set.values = semaphore_values(set.id, set.size);
        return false;
      } catch (const SystemError&) {  // removed meanwhile
        return true;
      }
    });
  });
  return out;
}

// Also of those that processes have borne which nobody traces.
std::optional<Pid> LiveTarget::free_process(Pid pid) const {
  if (const auto found = free_.find(pid); found != free_.end() && found->second.is_there())
    return found->second.real;
  if (processes_.contains(pid)) return std::nullopt;
  for (const Pid real : tree_below({tree_->keeper()})) {
    const auto proc = ProcDirectory::of_if_alive(real);
    const auto status = proc ? proc->read_if_allowed("status") : std::nullopt;
    if (status && real != tree_->keeper() && pid_of(real, ProcFields(*status)) == pid) return real;
  }
  return std::nullopt;
}

}  // namespace snapgdb::gdbstub
