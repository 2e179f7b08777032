// System V objects: what becomes of them in a restore.

#include <sys/ipc.h>

#include <algorithm>
#include <map>

#include "core/base/error.h"
#include "core/resource/namespaces.h"
#include "core/resource/semaphore_undo.h"
#include "core/resource/spaces.h"
#include "core/resource/system_v.h"
#include "core/resource/system_v_records.h"

namespace snapgdb {
namespace {

constexpr uint32_t kRightsBits = 0777;

IpcObject object_with(const pb::IpcPermissions& record, uint64_t size) {
  return {.id = record.id(),
          .key = record.key(),
          .mode = record.mode(),
          .owner = record.owner(),
          .group = record.group(),
          .size = size};
}

}  // namespace

IpcObject object_of(const pb::SharedMemorySegment& segment) {
  return object_with(segment.permissions(), segment.size());
}
IpcObject object_of(const pb::SemaphoreSet& set) {
  return object_with(set.permissions(), static_cast<uint64_t>(set.values_size()));
}
IpcObject object_of(const pb::SystemVMessageQueue& queue) {
  return object_with(queue.permissions(), queue.maximum_bytes());
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

namespace {

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
  Planner(const Snapshot& snapshot, RestorePlan& plan, SystemVObjects& planned, bool is_new,
          int32_t who)
      : snapshot_(snapshot), plan_(plan), planned_(planned), is_new_(is_new), who_(who) {}

  void plan() {
    const pb::SystemV& objects = *planned_.objects;
    for (const pb::SharedMemorySegment& segment : objects.shared_memory()) add(segment);
    const uint64_t space = objects.ipc_namespace();
    for (const pb::SemaphoreSet& set : objects.semaphores())
      add(IpcKind::kSemaphores, set,
          is_undone_in_part(snapshot_, space, set) ? ", and nothing of it is undone (SEM_UNDO)"
                                                   : "",
          [&](const IpcObject& same) {
            return semaphore_values(same.id, same.size) ==
                   values_when_undone(snapshot_, space, set);
          });
    for (const pb::SystemVMessageQueue& queue : objects.message_queues())
      add(IpcKind::kMessages, queue, "",
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

  // `if_not`: what else is to be said if it is not as the tree has left it.
  void add(IpcKind kind, const auto& record, std::string_view if_not, const auto& is_as_it_was) {
    const IpcObject wanted = object_of(record);
    const Meeting meeting = meet_those(kind, wanted);
    settle(kind, wanted, meeting);
    if (!meeting.same || is_unchanged(*meeting.same, is_as_it_was)) return;
    planned_.changed.insert({kind, wanted.id});
    plan_.notes.push_back(fmt::format("{} is there, not as it was: it is used as it is{}",
                                      ipc_name(kind, wanted.id), if_not));
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

  const Snapshot& snapshot_;
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
    Planner(snapshot, plan, planned, is_new_ipc(plan, space), who->pid()).plan();
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

}  // namespace snapgdb
