// System V shared memory, semaphores and message queues. They belong to an ipc namespace, not to
// processes, and stay when those end: so they are of the snapshot as a whole.

#include "core/resource/system_v.h"

#include <fcntl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/mapped_file.h"
#include "core/linux/namespaces.h"
#include "core/resource/inheritance.h"
#include "core/resource/memory.h"
#include "core/resource/namespaces.h"
#include "core/resource/spaces.h"

namespace snapgdb {
namespace {

constexpr uint32_t kRightsBits = 0777;

bool is_segment(const pb::Vma& vma) {
  return vma.shared() && vma.deleted() && vma.name().starts_with(kSystemVName);
}

// That by which it was attached.
std::optional<uint32_t> key_in(const pb::Vma& vma) {
  return parse_number<uint32_t>(std::string_view(vma.name()).substr(kSystemVName.size()), 16);
}

uint64_t size_of(const pb::Vma& vma) {
  return vma.end() - vma.start();
}

// ---- Capture ------------------------------------------------------------------------------------

// What processes of one ipc namespace have to do with its objects.
struct Users {
  std::set<int32_t> pids;
  std::map<uint64_t, std::vector<const pb::Vma*>> mapped;  // by number of the segment
  std::set<std::pair<IpcKind, int>> waited_for;
  const FrozenProcess* example = nullptr;  // who is in that namespace
};

// The object that a thread was waiting for when it was stopped.
std::optional<std::pair<IpcKind, int>> waited_for(const pb::Thread& thread) {
  constexpr std::pair<long, IpcKind> kCalls[] = {{SYS_semop, IpcKind::kSemaphores},
                                                 {SYS_semtimedop, IpcKind::kSemaphores},
                                                 {SYS_msgsnd, IpcKind::kMessages},
                                                 {SYS_msgrcv, IpcKind::kMessages}};
  user_regs_struct registers{};
  if (thread.registers().size() != sizeof registers) return std::nullopt;
  std::memcpy(&registers, thread.registers().data(), sizeof registers);
  for (const auto& [number, kind] : kCalls)
    if (registers.orig_rax == static_cast<uint64_t>(number))
      return {{kind, static_cast<int>(registers.rdi)}};
  return std::nullopt;
}

std::map<uint64_t, Users> users_by_namespace(const CaptureContext& context,
                                             const std::vector<pb::Process>& processes) {
  std::map<uint64_t, Users> all;
  for (size_t i = 0; i < processes.size(); ++i) {
    const pb::Process& process = processes[i];
    const uint64_t where = ipc_of(process);
    if (where == 0) continue;
    Users& users = all[where];
    if (!users.example) users.example = &context.tree.processes[i];
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
        context_.lacks(users_.example->pid, {}, ipc_name(kind, object.id), error.what());
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

}  // namespace

void capture_system_v(CaptureContext& context, const std::vector<pb::Process>& processes,
                      pb::SnapshotRecord& record) {
  const uint64_t ours = namespace_in(record.namespaces(), "ipc");
  for (const auto& [where, users] : users_by_namespace(context, processes)) {
    pb::SystemV objects;
    objects.set_ipc_namespace(where);
    try {
      SystemVCapture capture(context, users, where != ours, objects);
      if (where == ours)
        capture.look();
      else
        in_namespace(users.example->task_proc.open("ns/ipc", O_RDONLY | O_CLOEXEC), "ipc",
                     [&] { capture.look(); });
      capture.copy_content();
    } catch (const Error& error) {
      context.lacks(users.example->pid, {}, "System V objects", error.what());
    }
    const bool any =
        objects.shared_memory_size() || objects.semaphores_size() || objects.message_queues_size();
    if (any) *record.add_system_v() = std::move(objects);
  }
}

// ---- The plan of a restore ----------------------------------------------------------------------

namespace {

IpcObject object_of(const pb::IpcPermissions& record, uint64_t size) {
  return {.id = record.id(),
          .key = record.key(),
          .mode = record.mode(),
          .owner = record.owner(),
          .group = record.group(),
          .size = size};
}

IpcObject object_of(const pb::SharedMemorySegment& segment) {
  return object_of(segment.permissions(), segment.size());
}
IpcObject object_of(const pb::SemaphoreSet& set) {
  return object_of(set.permissions(), static_cast<uint64_t>(set.values_size()));
}
IpcObject object_of(const pb::SystemVMessageQueue& queue) {
  return object_of(queue.permissions(), queue.maximum_bytes());
}

std::vector<uint16_t> values_of(const pb::SemaphoreSet& set) {
  return {set.values().begin(), set.values().end()};
}

std::vector<IpcMessage> messages_of(const pb::SystemVMessageQueue& queue) {
  std::vector<IpcMessage> messages;
  for (const auto& message : queue.messages())
    messages.push_back({message.type(), message.content()});
  return messages;
}

// How an object of the snapshot meets those that are there.
struct Meeting {
  const IpcObject* same = nullptr;  // it is still there
  std::string why = {}, help = {};  // otherwise: why it cannot be made; "" if it can
};

constexpr const char* kIsolated = "--isolated, or --without system-v";

// What a queue may hold is a setting that changes.
Meeting meet_one(IpcKind kind, const IpcObject& wanted, const IpcObject& other) {
  const bool is_same_size = kind == IpcKind::kMessages || wanted.size == other.size;
  if (wanted.id == other.id && wanted.key == other.key && is_same_size) {
    const bool is_closed = !(other.mode & kRightsBits) && (wanted.mode & kRightsBits);
    if (!is_closed) return {.same = &other};
    return {.why = "an interrupted restore has left it unfinished", .help = "remove it, ipcrm(1)"};
  }
  if (wanted.id == other.id) return {.why = "its number is another one's now", .help = kIsolated};
  if (ipc_place(wanted.id) == ipc_place(other.id))
    return {.why = fmt::format("the kernel keeps number {} in its place now", other.id),
            .help = kIsolated};
  if (wanted.key != IPC_PRIVATE && wanted.key == other.key)
    return {.why = fmt::format("its key {:#010x} is that of number {} now",
                               static_cast<uint32_t>(wanted.key), other.id),
            .help = kIsolated};
  return {};
}

Meeting meet(IpcKind kind, const IpcObject& wanted, const std::vector<IpcObject>& there) {
  for (const IpcObject& other : there)
    if (const Meeting meeting = meet_one(kind, wanted, other); meeting.same || !meeting.why.empty())
      return meeting;
  if (!may_choose_ipc_id(kind))
    return {.why = "only root gives it its number",
            .help = fmt::format("restore it as root, or {}", kIsolated)};
  return {};
}

class Planner {
 public:
  // `is_new`: so is the namespace; `who` is in it.
  Planner(RestorePlan& plan, SystemVObjects& planned, bool is_new, int32_t who)
      : plan_(plan), planned_(planned), is_new_(is_new), who_(who) {}

  void plan() {
    const pb::SystemV& objects = *planned_.objects;
    for (const pb::SharedMemorySegment& segment : objects.shared_memory()) add(segment);
    for (const pb::SemaphoreSet& set : objects.semaphores())
      add(IpcKind::kSemaphores, set, [&](const IpcObject& same) {
        return semaphore_values(same.id, same.size) == values_of(set);
      });
    for (const pb::SystemVMessageQueue& queue : objects.message_queues())
      add(IpcKind::kMessages, queue,
          [&](const IpcObject& same) { return queued_messages(same) == messages_of(queue); });
  }

 private:
  Meeting meet_those(IpcKind kind, const IpcObject& wanted) {
    if (is_new_) return {};
    const auto [known, is_new] = there_.try_emplace(kind);
    if (is_new) known->second = ipc_objects(kind);
    return meet(kind, wanted, known->second);
  }

  // A removed one is no longer to be found by others, and shall not be shared with them.
  void add(const pb::SharedMemorySegment& segment) {
    const IpcObject wanted = object_of(segment);
    Meeting meeting = meet_those(IpcKind::kSharedMemory, wanted);
    if (segment.removed() && (meeting.same || !meeting.why.empty())) {
      plan_.notes.push_back(
          fmt::format("{}, which was removed, becomes shared memory without a number: {}",
                      ipc_name(IpcKind::kSharedMemory, wanted.id),
                      meeting.same ? "others still have it" : meeting.why));
      return;
    }
    settle(IpcKind::kSharedMemory, wanted, meeting);
    planned_.segments[static_cast<uint64_t>(wanted.id)] = &segment;
  }

  void add(IpcKind kind, const auto& record, const auto& is_as_it_was) {
    const IpcObject wanted = object_of(record);
    const Meeting meeting = meet_those(kind, wanted);
    settle(kind, wanted, meeting);
    if (meeting.same && !is_unchanged(*meeting.same, is_as_it_was))
      plan_.notes.push_back(ipc_name(kind, wanted.id) +
                            " is there, not as it was: it is used as it is");
  }

  static bool is_unchanged(const IpcObject& same, const auto& is_as_it_was) {
    try {
      return is_as_it_was(same);
    } catch (const SystemError&) {
      return true;  // not ours to read: the program has it as it is, too
    }
  }

  void settle(IpcKind kind, const IpcObject& wanted, const Meeting& meeting) {
    if (meeting.same) return;
    planned_.made.insert({kind, wanted.id});
    if (!meeting.why.empty())
      plan_.obstacles.push_back({who_, ipc_name(kind, wanted.id), meeting.why, meeting.help});
  }

  RestorePlan& plan_;
  SystemVObjects& planned_;
  bool is_new_;
  int32_t who_;
  std::map<IpcKind, std::vector<IpcObject>> there_;
};

}  // namespace

void plan_system_v(const Snapshot& snapshot, bool without, RestorePlan& plan) {
  const uint64_t theirs = ipc_of(snapshot.root()),
                 ours = namespace_in(snapshot.record().namespaces(), "ipc");
  plan.system_v.own_namespace = plan.isolated || (theirs && ours && theirs != ours);
  const auto& all = snapshot.record().system_v();
  if (without && !all.empty())
    plan.notes.emplace_back("System V semaphores, message queues and segments are left out");
  // Those of one are told apart by their numbers, which two may give to different ones.
  if (without && all.size() > 1)
    plan.obstacles.push_back({snapshot.root().pid(), "--without system-v",
                              "memory of segments of several ipc namespaces would be mixed up",
                              "restore them"});
  for (const pb::SystemV& objects : all) {
    const uint64_t space = objects.ipc_namespace();
    const pb::Process* who = member_of(snapshot, "ipc", space);
    if (without || space == 0 || !who || (space != theirs && !is_in_space(plan, space))) continue;
    SystemVObjects& planned = plan.system_v.spaces[space];
    planned.objects = &objects;
    Planner(plan, planned, is_new_ipc(plan, space), who->pid()).plan();
  }
}

std::string describe(const SystemVPlan& plan) {
  std::string out;
  const auto add = [&](const SystemVObjects& planned, IpcKind kind, const auto& objects) {
    for (const auto& object : objects) {
      const int id = object.permissions().id();
      const bool has_number =
          kind != IpcKind::kSharedMemory || planned.segments.contains(static_cast<uint64_t>(id));
      out += fmt::format("{}: {}\n", ipc_name(kind, id),
                         planned.made.contains({kind, id}) ? "made"
                         : has_number                      ? "used as it is here"
                                                           : "memory without a number");
    }
  };
  for (const auto& [space, planned] : plan.spaces) {
    add(planned, IpcKind::kSharedMemory, planned.objects->shared_memory());
    add(planned, IpcKind::kSemaphores, planned.objects->semaphores());
    add(planned, IpcKind::kMessages, planned.objects->message_queues());
  }
  return out;
}

// ---- Making them --------------------------------------------------------------------------------

namespace {

// An attachment to a segment.
struct Attached {
  const pb::Process& process;
  const pb::Vma& vma;
};

// Where a mapping comes from, as far as it tells: by number, device and the key that it is named
// by, which a removed one has lost.
bool is_of(const pb::Vma& vma, const pb::SharedMemorySegment& segment) {
  return segment.device() == device_of(vma) &&
         (segment.removed() || key_in(vma) == static_cast<uint32_t>(segment.permissions().key()));
}

struct Origin {
  uint64_t space = 0;  // the ipc namespace
  const pb::SharedMemorySegment* segment = nullptr;
};

// Of that namespace where the process is; or of another one, where it was when it attached it.
Origin origin_of(const RestorePlan& plan, const pb::Process& process, const pb::Vma& vma) {
  Origin origin;
  if (!is_segment(vma)) return origin;
  for (const auto& [space, planned] : plan.system_v.spaces) {
    const auto found = planned.segments.find(vma.inode());
    if (found == planned.segments.end() || !is_of(vma, *found->second)) continue;
    if (!origin.segment || space == ipc_of(process)) origin = {space, found->second};
  }
  return origin;
}

const pb::SharedMemorySegment* segment_of(const RestorePlan& plan, const pb::Process& process,
                                          const pb::Vma& vma) {
  return origin_of(plan, process, vma).segment;
}

std::vector<Attached> attachments_of(const Snapshot& snapshot, const RestorePlan& plan,
                                     const pb::SharedMemorySegment& segment) {
  std::vector<Attached> all;
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Vma& vma : process.mappings())
      if (segment_of(plan, process, vma) == &segment) all.push_back({process, vma});
  return all;
}

// Of huge pages, if who has it mapped says so.
int flags_of(const std::vector<Attached>& attachments) {
  for (const auto& [process, vma] : attachments)
    if (has_flag(vma, "ht"))
      return SHM_HUGETLB | std::countr_zero(vma.page_size()) << MAP_HUGE_SHIFT;
  return 0;
}

// A removed one has no key any more, but mappings go on being named by the one that it had.
int32_t key_to_make(const std::vector<Attached>& attachments,
                    const pb::SharedMemorySegment& segment) {
  if (!segment.removed()) return segment.permissions().key();
  if (attachments.empty()) return IPC_PRIVATE;
  const auto key = key_in(attachments.front().vma);
  const bool is_free = key && ::shmget(static_cast<key_t>(*key), 0, 0) < 0 && errno == ENOENT;
  return is_free ? static_cast<int32_t>(*key) : IPC_PRIVATE;
}

void fill_from_file(const Snapshot& snapshot, const pb::FileRecord& file,
                    std::span<std::byte> memory) {
  for (size_t at = 0; at < memory.size();) {
    const size_t n = snapshot.read_file(file, at, memory.subspan(at));
    if (n == 0)
      throw Error("cannot read " + printable(file.path()) + " in the image", "it is not all there");
    at += n;
  }
}

// Returns whether the image has all of what the mapping shows.
bool fill_from_mapping(const Snapshot& snapshot, const pb::Process& process, const pb::Vma& vma,
                       std::span<std::byte> memory) {
  bool whole = true;
  for (const Extent& extent : snapshot.extents(process).overlapping(vma.start(), vma.end())) {
    whole &= extent.source != pb::SOURCE_MISSING;
    if (extent.source != pb::SOURCE_STORED) continue;
    const uint64_t start = std::max(extent.start, vma.start()),
                   end = std::min(extent.end(), vma.end());
    uint64_t at = vma.offset() + (start - vma.start());
    snapshot.pages().visit_pages(
        extent.where + (start - extent.start) / kPageSize, (end - start) / kPageSize,
        [&](std::span<const std::byte> pages) {
          const uint64_t room = memory.size() - std::min<uint64_t>(at, memory.size());
          std::ranges::copy(pages.first(std::min<uint64_t>(pages.size(), room)),
                            memory.begin() + static_cast<ptrdiff_t>(at));
          at += pages.size();
        });
  }
  return whole;
}

// What one process shows of it as a whole, others need not show again.
void fill_from_mappings(const Snapshot& snapshot, const std::vector<Attached>& attachments,
                        std::span<std::byte> memory) {
  std::set<std::pair<uint64_t, uint64_t>> done;
  for (const auto& [process, vma] : attachments) {
    const std::pair range{vma.offset(), size_of(vma)};
    if (!done.contains(range) && fill_from_mapping(snapshot, process, vma, memory))
      done.insert(range);
  }
}

void fill(const Snapshot& snapshot, const std::vector<Attached>& attachments,
          const pb::SharedMemorySegment& segment) {
  const Attachment attached(segment.permissions().id(), segment.size(), 0);
  const pb::FileRecord* file = snapshot.file(segment.nameless());
  if (file && file->embedded())
    fill_from_file(snapshot, *file, attached.bytes());
  else
    fill_from_mappings(snapshot, attachments, attached.bytes());
}

}  // namespace

void MadeSystemV::make(const Snapshot& snapshot, const RestorePlan& plan, uint64_t space) {
  const auto found = plan.system_v.spaces.find(space);
  if (found == plan.system_v.spaces.end()) return;
  const SystemVObjects& planned = found->second;
  const pb::SystemV& objects = *planned.objects;
  const auto make_if_planned = [&](IpcKind kind, const IpcObject& wanted, int flags,
                                   const auto& fill_it) {
    if (!planned.made.contains({kind, wanted.id})) return;
    make_ipc(kind, wanted, flags);
    made_.push_back({kind, wanted.id});
    fill_it();
    IpcObject owned = wanted;
    owned.owner = plan.numbers.user(wanted.owner), owned.group = plan.numbers.group(wanted.group);
    set_ipc_permissions(kind, owned);
  };
  for (const pb::SharedMemorySegment& segment : objects.shared_memory()) {
    const std::vector<Attached> attachments = attachments_of(snapshot, plan, segment);
    IpcObject wanted = object_of(segment);
    wanted.key = key_to_make(attachments, segment);
    make_if_planned(IpcKind::kSharedMemory, wanted, flags_of(attachments), [&] {
      fill(snapshot, attachments, segment);
      if (wanted.mode & SHM_LOCKED) lock_shared_memory(wanted.id);
    });
  }
  for (const pb::SemaphoreSet& set : objects.semaphores())
    make_if_planned(IpcKind::kSemaphores, object_of(set), 0,
                    [&] { set_semaphores(set.permissions().id(), values_of(set)); });
  for (const pb::SystemVMessageQueue& queue : objects.message_queues())
    make_if_planned(IpcKind::kMessages, object_of(queue), 0, [&] {
      fill_queue(queue.permissions().id(), messages_of(queue), queue.maximum_bytes());
    });
}

MadeSystemV::~MadeSystemV() {
  for (const Made& made : made_) remove_ipc_if_there(made.kind, made.id);
}

// ---- Attaching them -----------------------------------------------------------------------------

namespace {

bool may_write(const pb::Vma& vma) {
  return has_flag(vma, "mw");
}

// What is left of one call of shmat(2), as far as mappings tell.
struct Attaching {
  uint64_t segment = 0, base = 0;  // where it begins, or would
  bool writable = false;

  auto operator<=>(const Attaching&) const = default;
};

uint64_t up(uint64_t value, const pb::Vma& vma) {
  const uint64_t unit = std::max<uint64_t>(vma.page_size(), kPageSize);
  return (value + unit - 1) / unit * unit;
}

void protect(const pb::Vma& vma, Seed& seed) {
  const uint32_t attached = PROT_READ | (may_write(vma) ? PROT_WRITE : 0);
  if (vma.protection() != attached)
    seed.add("protect shared memory", SYS_mprotect, {vma.start(), size_of(vma), vma.protection()});
}

void attach(const Attaching& what, uint64_t address, Seed& seed) {
  seed.add(fmt::format("attach {} at {:#x}",
                       ipc_name(IpcKind::kSharedMemory, static_cast<int>(what.segment)), address),
           SYS_shmat, {what.segment, address, what.writable ? uint64_t{0} : SHM_RDONLY});
}

}  // namespace

bool is_attached(const RestorePlan& plan, const pb::Process& process, const pb::Vma& vma) {
  return segment_of(plan, process, vma) != nullptr;
}

uint64_t room_to_attach(const Snapshot& snapshot, const RestorePlan& plan) {
  uint64_t room = 0;
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Vma& vma : process.mappings())
      if (const auto* segment = segment_of(plan, process, vma);
          segment && size_of(vma) != up(segment->size(), vma))
        room = std::max(room, up(segment->size(), vma) + vma.page_size());
  return room;
}

namespace {

using Attachings = std::map<Attaching, std::vector<const pb::Vma*>>;

// Parts of one are attached where there is room for the whole, and moved: shmdt(2) finds them all
// the same.
void attach_all(const RestorePlan& plan, const pb::Process& process, const Attachings& attachings,
                Seed& seed) {
  for (const auto& [what, parts] : attachings) {
    const uint64_t size = up(segment_of(plan, process, *parts.front())->size(), *parts.front()),
                   room = up(plan.system_v.room, *parts.front());
    const bool is_whole = parts.size() == 1 && size_of(*parts.front()) == size;
    attach(what, is_whole ? what.base : room, seed);
    for (const pb::Vma* part : parts) {
      if (!is_whole)
        seed.add("move a part of shared memory", SYS_mremap,
                 {room + part->offset(), size_of(*part), size_of(*part),
                  MREMAP_MAYMOVE | MREMAP_FIXED, part->start()});
      protect(*part, seed);
    }
    if (!is_whole) seed.add("give up the rest of shared memory", SYS_munmap, {room, size});
  }
}

}  // namespace

void attach_segments(const RestoreContext& context, const pb::Process& process, Seed& seed) {
  std::map<uint64_t, Attachings> spaces;
  for (const pb::Vma& vma : process.mappings())
    if (const Origin origin = origin_of(context.plan, process, vma); origin.segment)
      spaces[origin.space][{vma.inode(), vma.start() - vma.offset(), may_write(vma)}].push_back(
          &vma);
  const uint64_t own = ipc_of(process);
  for (const auto& [space, attachings] : spaces) {
    if (space != own) enter_ipc(context, process, space, seed);
    attach_all(context.plan, process, attachings, seed);
    if (space != own) enter_ipc(context, process, own, seed);
  }
}

void remove_segments_again(const RestoreContext& context) {
  const Snapshot& snapshot = context.snapshot;
  const RestorePlan& plan = context.plan;
  const auto rmid = uint64_t{IPC_RMID};
  for (const auto& [space, planned] : plan.system_v.spaces) {
    for (const auto& [id, segment] : planned.segments) {
      if (!segment->removed()) continue;
      if (is_new_ipc(plan, space))
        context.seed_of(*member_of(snapshot, "ipc", space))
            .call("remove shared memory", SYS_shmctl, {id, rmid, 0});
      else
        remove_ipc_if_there(IpcKind::kSharedMemory, static_cast<int>(id));
    }
  }
}

}  // namespace snapgdb
