#include "core/linux/system_v.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <limits>
#include <utility>

#include "core/base/error.h"
#include "core/base/fd.h"

namespace snapgdb {
namespace {

// The caller defines it, semctl(2).
union SemaphoreArgument {
  int value;
  semid_ds* status;
  unsigned short* values;
  seminfo* info;
};

constexpr char kSettings[] = "/proc/sys/kernel/";

struct Words {
  const char *name, *next_id;
};
constexpr Words kWords[] = {{"shared memory", "shm_next_id"},
                            {"semaphores", "sem_next_id"},
                            {"message queue", "msg_next_id"}};
const Words& words_for(IpcKind kind) {
  return kWords[static_cast<size_t>(kind)];
}

// ---- What there is ------------------------------------------------------------------------------

IpcObject object_of(int id, const ipc_perm& permissions) {
  return {.id = id,
          .key = permissions.__key,
          .mode = permissions.mode,
          .owner = permissions.uid,
          .group = permissions.gid,
          .creator = permissions.cuid,
          .creator_group = permissions.cgid};
}

// The STAT_ANY commands take a place in the kernel's table, the INFO ones tell the last one in use.
std::vector<IpcObject> segments() {
  std::vector<IpcObject> found;
  shm_info info{};
  const int last = ::shmctl(0, SHM_INFO, reinterpret_cast<shmid_ds*>(&info));
  for (int place = 0; place <= last; ++place) {
    shmid_ds status{};
    const int id = ::shmctl(place, SHM_STAT_ANY, &status);
    if (id < 0) continue;
    IpcObject& object = found.emplace_back(object_of(id, status.shm_perm));
    object.size = status.shm_segsz;
    object.pids = {status.shm_cpid, status.shm_lpid};
  }
  return found;
}

std::vector<IpcObject> semaphore_sets() {
  std::vector<IpcObject> found;
  seminfo info{};
  const int last = ::semctl(0, 0, SEM_INFO, SemaphoreArgument{.info = &info});
  for (int place = 0; place <= last; ++place) {
    semid_ds status{};
    const int id = ::semctl(place, 0, SEM_STAT_ANY, SemaphoreArgument{.status = &status});
    if (id < 0) continue;
    IpcObject& object = found.emplace_back(object_of(id, status.sem_perm));
    object.size = status.sem_nsems;
    try {
      object.pids = semaphore_pids(id, object.size);
    } catch (const SystemError&) {
      continue;  // not for us to read
    }
  }
  return found;
}

std::vector<IpcObject> message_queues() {
  std::vector<IpcObject> found;
  msginfo info{};
  const int last = ::msgctl(0, MSG_INFO, reinterpret_cast<msqid_ds*>(&info));
  for (int place = 0; place <= last; ++place) {
    msqid_ds status{};
    const int id = ::msgctl(place, MSG_STAT_ANY, &status);
    if (id < 0) continue;
    IpcObject& object = found.emplace_back(object_of(id, status.msg_perm));
    object.size = status.msg_qbytes;
    object.messages = status.msg_qnum;
    object.message_bytes = status.__msg_cbytes;
    object.pids = {status.msg_lspid, status.msg_lrpid};
  }
  return found;
}

// What msgsnd(2) and msgrcv(2) take: a long, then the content.
class MessageBuffer {
 public:
  explicit MessageBuffer(size_t size) : bytes_(sizeof(long) + std::max<size_t>(size, 1)) {}

  void set(const IpcMessage& message) {
    const long type = message.type;
    std::memcpy(bytes_.data(), &type, sizeof type);
    std::ranges::copy(message.content, bytes_.data() + sizeof type);
  }
  IpcMessage get(size_t size) const {
    long type = 0;
    std::memcpy(&type, bytes_.data(), sizeof type);
    return {type, {bytes_.data() + sizeof type, size}};
  }
  void* data() { return bytes_.data(); }
  size_t room() const { return bytes_.size() - sizeof(long); }

 private:
  std::vector<char> bytes_;
};

// ---- Making -------------------------------------------------------------------------------------

// A setting of the ipc namespace that is at least so high, as long as this lives. Where it cannot
// be set, what comes next fails.
class RaisedLimit {
 public:
  RaisedLimit(const char* name, uint64_t wanted) : path_(std::string(kSettings) + name) {
    std::ifstream(path_) >> before_;
    if (before_ < wanted) std::ofstream(path_) << wanted << std::flush;
    raised_ = before_ < wanted;
  }
  RaisedLimit(const RaisedLimit&) = delete;
  RaisedLimit& operator=(const RaisedLimit&) = delete;
  ~RaisedLimit() {
    if (raised_) std::ofstream(path_) << before_ << std::flush;
  }

 private:
  std::string path_;
  uint64_t before_ = std::numeric_limits<uint64_t>::max();
  bool raised_ = false;
};

int set_room(int id, uint64_t bytes) {
  msqid_ds status{};
  if (::msgctl(id, IPC_STAT, &status) != 0) return -1;
  status.msg_qbytes = bytes;
  return ::msgctl(id, IPC_SET, &status);
}

// More than the namespace allows takes CAP_SYS_RESOURCE, or a namespace that allows more.
void set_maximum(int id, uint64_t bytes) {
  if (set_room(id, bytes) == 0) return;
  const RaisedLimit limit("msgmnb", bytes);
  if (set_room(id, bytes) != 0)
    throw_errno("cannot let {} hold {} bytes", ipc_name(IpcKind::kMessages, id), bytes);
}

// Nobody else of ours is to see it: it is taken by the next one that is made.
void choose_next_id(IpcKind kind, int id) {
  const std::string path = std::string(kSettings) + words_for(kind).next_id,
                    text = std::to_string(id);
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid() ||
      ::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    throw_errno("cannot write {}", path);
}

int make(IpcKind kind, const IpcObject& wanted, int flags) {
  flags |= IPC_CREAT | IPC_EXCL;
  if (kind == IpcKind::kSharedMemory) {
    const int id = ::shmget(wanted.key, wanted.size, flags);
    // More than there is memory for was asked for so, which the kernel does not show.
    return id >= 0 || errno != ENOMEM ? id
                                      : ::shmget(wanted.key, wanted.size, flags | SHM_NORESERVE);
  }
  if (kind == IpcKind::kSemaphores)
    return ::semget(wanted.key, static_cast<int>(wanted.size), flags);
  return ::msgget(wanted.key, flags);
}

void assume(ipc_perm& permissions, const IpcObject& wanted) {
  permissions.uid = wanted.owner;
  permissions.gid = wanted.group;
  permissions.mode = static_cast<decltype(permissions.mode)>(wanted.mode & 0777);
}

int set_permissions(IpcKind kind, const IpcObject& wanted) {
  if (kind == IpcKind::kSharedMemory) {
    shmid_ds status{};
    assume(status.shm_perm, wanted);
    return ::shmctl(wanted.id, IPC_SET, &status);
  }
  if (kind == IpcKind::kSemaphores) {
    semid_ds status{};
    assume(status.sem_perm, wanted);
    return ::semctl(wanted.id, 0, IPC_SET, SemaphoreArgument{.status = &status});
  }
  msqid_ds status{};
  if (::msgctl(wanted.id, IPC_STAT, &status) != 0) return -1;
  assume(status.msg_perm, wanted);
  // What it may hold is set already, and setting more than the limit takes rights.
  if (::msgctl(wanted.id, IPC_SET, &status) == 0) return 0;
  if (errno != EPERM) return -1;
  const RaisedLimit limit("msgmnb", status.msg_qbytes);
  return ::msgctl(wanted.id, IPC_SET, &status);
}

}  // namespace

std::string ipc_name(IpcKind kind, int id) {
  return fmt::format("System V {} {}", words_for(kind).name, id);
}

std::vector<IpcObject> ipc_objects(IpcKind kind) {
  constexpr std::vector<IpcObject> (*kLists[])() = {segments, semaphore_sets, message_queues};
  return kLists[static_cast<size_t>(kind)]();
}

std::vector<uint16_t> semaphore_values(int id, size_t count) {
  std::vector<uint16_t> values(count);
  if (::semctl(id, 0, GETALL, SemaphoreArgument{.values = values.data()}) < 0)
    throw_errno("cannot read {}", ipc_name(IpcKind::kSemaphores, id));
  return values;
}

std::vector<int32_t> semaphore_pids(int id, size_t count) {
  std::vector<int32_t> pids(count);
  for (size_t i = 0; i < count; ++i)
    if ((pids[i] = ::semctl(id, static_cast<int>(i), GETPID)) < 0)
      throw_errno("cannot read {}", ipc_name(IpcKind::kSemaphores, id));
  return pids;
}

void set_semaphores(int id, std::vector<uint16_t> values) {
  if (::semctl(id, 0, SETALL, SemaphoreArgument{.values = values.data()}) < 0)
    throw_errno("cannot set {}", ipc_name(IpcKind::kSemaphores, id));
}

std::vector<IpcMessage> queued_messages(const IpcObject& queue) {
  MessageBuffer buffer(queue.message_bytes);
  std::vector<IpcMessage> messages;
  for (uint64_t i = 0; i < queue.messages; ++i) {
    const ssize_t size = ::msgrcv(queue.id, buffer.data(), buffer.room(), static_cast<long>(i),
                                  MSG_COPY | IPC_NOWAIT);
    if (size < 0) throw_errno("cannot read {}", ipc_name(IpcKind::kMessages, queue.id));
    messages.push_back(buffer.get(static_cast<size_t>(size)));
  }
  return messages;
}

// There may be more in a queue than it may hold: it was allowed less later.
void fill_queue(int id, const std::vector<IpcMessage>& messages, uint64_t maximum_bytes) {
  uint64_t bytes = 0, longest = 0;
  for (const IpcMessage& message : messages) {
    bytes += message.content.size();
    longest = std::max<uint64_t>(longest, message.content.size());
  }
  set_maximum(id, std::max({maximum_bytes, bytes, uint64_t{messages.size()}}));
  const RaisedLimit limit("msgmax", longest);
  MessageBuffer buffer(longest);
  for (const IpcMessage& message : messages) {
    buffer.set(message);
    if (::msgsnd(id, buffer.data(), message.content.size(), IPC_NOWAIT) != 0)
      throw_errno("cannot queue a message of {} bytes in {}", message.content.size(),
                  ipc_name(IpcKind::kMessages, id));
  }
  set_maximum(id, maximum_bytes);
}

Attachment::Attachment(int id, size_t size, int flags) {
  void* memory = ::shmat(id, nullptr, flags);
  if (memory == reinterpret_cast<void*>(-1))
    throw_errno("cannot attach {}", ipc_name(IpcKind::kSharedMemory, id));
  bytes_ = {static_cast<std::byte*>(memory), size};
}

Attachment::Attachment(Attachment&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

Attachment::~Attachment() {
  if (bytes_.data()) ::shmdt(bytes_.data());
}

bool may_choose_ipc_id(IpcKind kind) {
  const std::string path = std::string(kSettings) + words_for(kind).next_id;
  return Fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC)).valid();
}

void make_ipc(IpcKind kind, const IpcObject& wanted, int flags) {
  const std::string tried = "cannot make " + ipc_name(kind, wanted.id);
  choose_next_id(kind, wanted.id);
  const int id = make(kind, wanted, flags);
  if (id < 0) throw_errno("{}", tried);
  if (id == wanted.id) return;
  remove_ipc_if_there(kind, id);
  throw Error(tried, fmt::format("it gets the number {}: its own is taken", id));
}

void set_ipc_permissions(IpcKind kind, const IpcObject& wanted) {
  if (set_permissions(kind, wanted) == 0) return;
  IpcObject ours = wanted;
  ours.owner = ::geteuid(), ours.group = ::getegid();
  if (errno != EINVAL || set_permissions(kind, ours) != 0)
    throw_errno("cannot set the rights of {}", ipc_name(kind, wanted.id));
}

void lock_shared_memory(int id) {
  if (::shmctl(id, SHM_LOCK, nullptr) != 0)
    throw_errno("cannot lock {}", ipc_name(IpcKind::kSharedMemory, id));
}

void remove_ipc_if_there(IpcKind kind, int id) {
  if (kind == IpcKind::kSharedMemory)
    ::shmctl(id, IPC_RMID, nullptr);
  else if (kind == IpcKind::kSemaphores)
    ::semctl(id, 0, IPC_RMID);
  else
    ::msgctl(id, IPC_RMID, nullptr);
}

}  // namespace snapgdb
