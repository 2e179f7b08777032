// System V shared memory, semaphores and message queues. They belong to an ipc namespace, not to
// processes, and stay when those end: so they are of the snapshot as a whole. This is their
// capture; what a restore does is planned in system_v_plan.cc and done in system_v_restore.cc.

#include "core/resource/system_v.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "core/base/error.h"
#include "core/image/general_registers.h"
#include "core/linux/mapped_file.h"
#include "core/linux/namespaces.h"
#include "core/resource/memory.h"
#include "core/resource/namespaces.h"
#include "core/resource/semaphore_undo.h"
#include "core/resource/spaces.h"
#include "core/resource/system_v_records.h"

namespace snapgdb {
namespace {

// What processes of one ipc namespace have to do with its objects.
struct Users {
  std::set<int32_t> pids;
  std::map<uint64_t, std::vector<const pb::Vma*>> mapped;  // by number of the segment
  std::set<std::pair<IpcKind, int>> waited_for;
  InOneSpace processes;
  const FrozenProcess& example() const { return *processes.front().first; }
};

// The object that a thread was waiting for when it was stopped.
std::optional<std::pair<IpcKind, int>> waited_for(const pb::Thread& thread) {
  constexpr std::pair<long, IpcKind> kCalls[] = {{SYS_semop, IpcKind::kSemaphores},
                                                 {SYS_semtimedop, IpcKind::kSemaphores},
                                                 {SYS_msgsnd, IpcKind::kMessages},
                                                 {SYS_msgrcv, IpcKind::kMessages}};
  const user_regs_struct registers = general_registers(thread);
  for (const auto& [number, kind] : kCalls)
    if (registers.orig_rax == static_cast<uint64_t>(number))
      return {{kind, static_cast<int>(registers.rdi)}};
  return std::nullopt;
}

std::map<uint64_t, Users> users_by_namespace(const CaptureContext& context,
                                             std::vector<pb::Process>& processes) {
  std::map<uint64_t, Users> all;
  for (size_t i = 0; i < processes.size(); ++i) {
    pb::Process& process = processes[i];
    const uint64_t where = ipc_of(process);
    if (where == 0) continue;
    Users& users = all[where];
    users.processes.emplace_back(&context.tree.processes[i], &process);
    users.pids.insert(process.pid());
    for (const pb::Vma& vma : process.mappings())
      if (is_segment(vma)) users.mapped[vma.inode()].push_back(&vma);
    for (const pb::Thread& thread : process.threads())
      if (const auto object = waited_for(thread)) users.waited_for.insert(*object);
  }
  return all;
}

bool is_used_by(const Users& users, IpcKind kind, const IpcObject& object) {
  return std::ranges::any_of(object.pids, [&](int32_t pid) { return users.pids.contains(pid); }) ||
         users.waited_for.contains({kind, object.id}) ||
         (kind == IpcKind::kSharedMemory &&
          users.mapped.contains(static_cast<uint64_t>(object.id)));
}

void describe(const IpcObject& object, pb::IpcPermissions& out) {
  out.set_id(object.id);
  out.set_key(object.key);
  out.set_mode(object.mode);
  out.set_owner(object.owner);
  out.set_group(object.group);
  out.set_creator(object.creator);
  out.set_creator_group(object.creator_group);
}

bool is_mapped_as_a_whole(const std::vector<const pb::Vma*>& mapped, uint64_t size) {
  std::map<uint64_t, uint64_t> shown;
  for (const pb::Vma* vma : mapped) {
    uint64_t& end = shown[vma->offset()];
    end = std::max(end, vma->offset() + size_of(*vma));
  }
  uint64_t covered = 0;
  for (const auto& [start, end] : shown)
    if (start <= covered) covered = std::max(covered, end);
  return covered >= size;
}

// Through the file of our attachment, which tells what was never touched; where that is out of our
// reach, everything is looked at.
Fd copy_of(const Attachment& attached, const std::string& name) {
  const auto start = reinterpret_cast<uint64_t>(attached.bytes().data());
  const uint64_t size = attached.bytes().size();
  const Fd file(
      ::open(fmt::format("/proc/self/map_files/{:x}-{:x}", start, start + page_up(size)).c_str(),
             O_RDONLY | O_CLOEXEC));
  Fd copy(::memfd_create(name.c_str(), MFD_CLOEXEC));
  if (!copy.valid() || ::ftruncate(copy.get(), static_cast<off_t>(size)) != 0)
    throw_errno("cannot make a copy of {}", name);
  const auto add = [&](uint64_t from, uint64_t to, bool has_data) {
    if (has_data) pwrite_all(copy.get(), attached.bytes().subspan(from, to - from), from, name);
  };
  if (file.valid())
    for_each_data_run(file, 0, size, add);
  else
    add(0, size, true);
  return copy;
}

// What the objects of one namespace are found to be, in that namespace.
class SystemVCapture {
 public:
  SystemVCapture(CaptureContext& context, const Users& users, bool all, pb::SystemV& out)
      : context_(context), users_(users), all_(all), out_(out) {}

  void look() {
    for_each(IpcKind::kSharedMemory, [&](const IpcObject& object) { add_segment(object); });
    for_each(IpcKind::kSemaphores, [&](const IpcObject& object) { add_semaphores(object); });
    for_each(IpcKind::kMessages, [&](const IpcObject& object) { add_queue(object); });
  }

  // Back in ours: the content of what nobody of the tree has mapped as a whole.
  void copy_content() {
    for (auto& [index, attachment] : attached_) {
      pb::SharedMemorySegment& segment = *out_.mutable_shared_memory(index);
      const std::string name = ipc_name(IpcKind::kSharedMemory, segment.permissions().id());
      segment.set_nameless(context_.nameless.id_for_copy(copy_of(attachment, name), name));
    }
    attached_.clear();
  }

 private:
  void for_each(IpcKind kind, const auto& work) {
    for (const IpcObject& object : ipc_objects(kind)) {
      if (!all_ && !is_used_by(users_, kind, object)) continue;
      try {
        work(object);
      } catch (const Error& error) {
        context_.lacks(users_.example().pid, {}, ipc_name(kind, object.id), error.what());
      }
    }
  }

  void add_segment(const IpcObject& object) {
    pb::SharedMemorySegment& segment = *out_.add_shared_memory();
    describe(object, *segment.mutable_permissions());
    segment.set_size(object.size);
    segment.set_removed(object.mode & SHM_DEST);
    const std::vector<const pb::Vma*> mapped = mapped_of(object);
    if (!mapped.empty()) {
      segment.set_device(device_of(*mapped.front()));
      segment.set_inode(mapped.front()->inode());
      if (is_mapped_as_a_whole(mapped, object.size)) return;
    }
    attached_.emplace_back(out_.shared_memory_size() - 1,
                           Attachment(object.id, object.size, SHM_RDONLY));
  }

  // Others of that number are of a namespace where a process was before.
  std::vector<const pb::Vma*> mapped_of(const IpcObject& object) const {
    std::vector<const pb::Vma*> mapped;
    const auto found = users_.mapped.find(static_cast<uint64_t>(object.id));
    if (found != users_.mapped.end())
      std::ranges::copy_if(found->second, std::back_inserter(mapped), [&](const pb::Vma* vma) {
        return object.mode & SHM_DEST || key_in(*vma) == static_cast<uint32_t>(object.key);
      });
    return mapped;
  }

  void add_semaphores(const IpcObject& object) {
    const auto values = semaphore_values(object.id, object.size);
    const auto pids = semaphore_pids(object.id, object.size);
    pb::SemaphoreSet& set = *out_.add_semaphores();
    describe(object, *set.mutable_permissions());
    set.mutable_values()->Assign(values.begin(), values.end());
    set.mutable_last_pids()->Assign(pids.begin(), pids.end());
  }

  void add_queue(const IpcObject& object) {
    const auto messages = queued_messages(object);
    pb::SystemVMessageQueue& queue = *out_.add_message_queues();
    describe(object, *queue.mutable_permissions());
    queue.set_maximum_bytes(object.size);
    for (const IpcMessage& message : messages) {
      auto& out = *queue.add_messages();
      out.set_type(message.type);
      out.set_content(message.content);
    }
  }

  CaptureContext& context_;
  const Users& users_;
  bool all_;
  pb::SystemV& out_;
  std::vector<std::pair<int, Attachment>> attached_;  // by index in out_
};

// By this thread, which traces the processes.
void ask_what_is_undone(CaptureContext& context, const Users& users, const pb::SystemV& objects,
                        const std::function<void(const std::function<void()>&)>& there) {
  for (const pb::SemaphoreSet& set : objects.semaphores())
    capture_semaphore_undo(context, users.processes, set, [&] {
      std::vector<uint16_t> values;
      there([&] {
        values = semaphore_values(set.permissions().id(), static_cast<size_t>(set.values_size()));
      });
      return values;
    });
}

}  // namespace

void capture_system_v(CaptureContext& context, std::vector<pb::Process>& processes,
                      pb::SnapshotRecord& record) {
  const uint64_t ours = namespace_in(record.namespaces(), "ipc");
  for (const auto& [where, users] : users_by_namespace(context, processes)) {
    pb::SystemV objects;
    objects.set_ipc_namespace(where);
    const auto there = [&](const std::function<void()>& work) {
      if (where == ours) return work();
      in_namespace(users.example().task_proc.open("ns/ipc", O_RDONLY | O_CLOEXEC), "ipc", work);
    };
    try {
      SystemVCapture capture(context, users, where != ours, objects);
      there([&] { capture.look(); });
      capture.copy_content();
      ask_what_is_undone(context, users, objects, there);
    } catch (const Error& error) {
      context.lacks(users.example().pid, {}, "System V objects", error.what());
    }
    const bool any =
        objects.shared_memory_size() || objects.semaphores_size() || objects.message_queues_size();
    if (any) *record.add_system_v() = std::move(objects);
  }
}

}  // namespace snapgdb
