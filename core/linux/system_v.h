#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace snapgdb {

// System V interprocess communication (sysvipc(7)), as the kernel has it in the ipc namespace of
// the calling thread. What fails throws SystemError.
enum class IpcKind { kSharedMemory, kSemaphores, kMessages };
inline constexpr IpcKind kIpcKinds[] = {IpcKind::kSharedMemory, IpcKind::kSemaphores,
                                        IpcKind::kMessages};
// "System V semaphores 5"
std::string ipc_name(IpcKind kind, int id);

struct IpcObject {
  int id = -1;
  int32_t key = 0;
  uint32_t mode = 0;  // of shared memory also SHM_DEST and SHM_LOCKED
  uint32_t owner = 0, group = 0, creator = 0, creator_group = 0;
  uint64_t size = 0;               // bytes; semaphores; bytes that a queue may hold
  uint64_t messages = 0;           // in a queue
  uint64_t message_bytes = 0;      // and how long they are together
  std::vector<int32_t> pids = {};  // who made it or used it last, as far as the kernel tells us
};
std::vector<IpcObject> ipc_objects(IpcKind kind);

std::vector<uint16_t> semaphore_values(int id, size_t count);
std::vector<int32_t> semaphore_pids(int id, size_t count);  // who changed each of them last
void set_semaphores(int id, std::vector<uint16_t> values);

struct IpcMessage {
  int64_t type = 0;
  std::string content;

  bool operator==(const IpcMessage&) const = default;
};
// In order; they stay in the queue (MSG_COPY, CONFIG_CHECKPOINT_RESTORE).
std::vector<IpcMessage> queued_messages(const IpcObject& queue);
// Into an empty queue, which may hold so many bytes from then on.
void fill_queue(int id, const std::vector<IpcMessage>& messages, uint64_t maximum_bytes);

// Shared memory, attached to us as long as this lives.
class Attachment {
 public:
  Attachment(int id, size_t size, int flags);
  Attachment(Attachment&& other) noexcept;
  Attachment& operator=(Attachment&&) = delete;
  ~Attachment();

  std::span<std::byte> bytes() const { return bytes_; }

 private:
  std::span<std::byte> bytes_;
};

// Whether we may say what number the next one gets.
bool may_choose_ipc_id(IpcKind kind);
// Where the kernel keeps an object of that number: it has no other one there (ipcid_to_idx(),
// ipc/util.h).
constexpr int ipc_place(int id) {
  return id & 0x7fff;
}
// One with the number, key and size of `wanted`, which nobody may use before set_ipc_permissions().
// `flags`: further ones of shmget(2). Precondition: may_choose_ipc_id(kind).
void make_ipc(IpcKind kind, const IpcObject& wanted, int flags = 0);
// Owner, group, mode. An owner whom our user namespace does not have is us.
void set_ipc_permissions(IpcKind kind, const IpcObject& wanted);
void lock_shared_memory(int id);  // SHM_LOCK
void remove_ipc_if_there(IpcKind kind, int id);

}  // namespace snapgdb
