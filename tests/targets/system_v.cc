// System V objects of every kind, at the ends of what is possible: keys of 32 bits and none, a
// segment that was removed, one of which a page is left out, messages of no and of all bytes,
// changes of semaphores that are undone as a child ends (SEM_UNDO).
//
// --by-key-only: nothing that only root can make again in the ipc namespace of all.

#include <grp.h>
#include <limits.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <vector>

#include "target.h"

namespace {

using target::expect_call;
using target::expect_equal;
using target::setup;

constexpr size_t kPage = 4096;
constexpr uint16_t kLargest = 32767;  // SEMVMX
constexpr uid_t kOther = 12345;

// Other programs of this kind may run at the same time.
key_t new_key(int which) {
  const auto mixed = static_cast<uint32_t>(target::mix(static_cast<uint64_t>(getpid())));
  return static_cast<key_t>(0x80000000u | (mixed & 0x7ffffff0u) | static_cast<uint32_t>(which));
}

size_t longest_message() {
  size_t size = 0;
  std::ifstream("/proc/sys/kernel/msgmax") >> size;
  return size;
}

// ---- Semaphores ---------------------------------------------------------------------------------

class Semaphores {
 public:
  Semaphores(key_t key, int mode, std::vector<unsigned short> values)
      : key_(key), mode_(mode), values_(std::move(values)) {
    id_ =
        setup("semget", semget(key, static_cast<int>(values_.size()), IPC_CREAT | IPC_EXCL | mode));
    if (!values_.empty()) setup("SETALL", semctl(id_, 0, SETALL, values_.data()));
    target::say("sem %d", id_);
  }
  void give_away() {
    semid_ds status{};
    setup("IPC_STAT", semctl(id_, 0, IPC_STAT, &status));
    owner_ = status.sem_perm.uid = kOther;
    setup("IPC_SET", semctl(id_, 0, IPC_SET, &status));
  }
  int id() const { return id_; }
  // The child's part: what is undone as it ends, to the ends of what is possible.
  void change_until_the_end() {
    change(0, 1, SEM_UNDO), change(0, -1, SEM_UNDO);
    change(3, -kLargest, SEM_UNDO);
    change(4, kLargest, SEM_UNDO), change(4, -1, 0), change(4, 1, SEM_UNDO);
    change(5, -2, SEM_UNDO), change(5, 1, SEM_UNDO);
  }
  void check_changed() const {
    std::vector<unsigned short> changed = values_;
    changed[3] = 0, changed[4] = kLargest, changed[5] -= 1;
    expect_equal("values that a child has changed", now() == changed, true);
  }
  void check_and_remove() {
    semid_ds status{};
    expect_call("IPC_STAT of semaphores", semctl(id_, 0, IPC_STAT, &status));
    expect_equal("the key of semaphores", status.sem_perm.__key, key_);
    expect_equal("the mode of semaphores", status.sem_perm.mode, mode_);
    expect_equal("the owner of semaphores", status.sem_perm.uid, owner_);
    expect_equal("how many they are", status.sem_nsems, values_.size());
    expect_equal("their values", now() == values_, true);
    if (key_ != IPC_PRIVATE) expect_equal("who has their key", semget(key_, 0, 0), id_);
    expect_call("removing semaphores", semctl(id_, 0, IPC_RMID));
  }

 private:
  void change(unsigned short which, int by, int flags) const {
    sembuf change{which, static_cast<short>(by), static_cast<short>(flags | IPC_NOWAIT)};
    setup("semop", semop(id_, &change, 1));
  }
  std::vector<unsigned short> now() const {
    std::vector<unsigned short> values(values_.size());
    expect_call("GETALL", semctl(id_, 0, GETALL, values.data()));
    return values;
  }

  key_t key_;
  int mode_, id_ = -1;
  uid_t owner_ = geteuid();
  std::vector<unsigned short> values_;
};

// ---- Messages -----------------------------------------------------------------------------------

struct Message {
  long type;
  std::vector<char> content;
};

class Queue {
 public:
  Queue(key_t key, std::vector<Message> messages, unsigned long room)
      : key_(key), messages_(std::move(messages)), room_(room) {
    id_ = setup("msgget", msgget(key, IPC_CREAT | IPC_EXCL | 0620));
    for (const Message& message : messages_) send(message);
    msqid_ds status = stat();
    status.msg_qbytes = room_;
    setup("IPC_SET", msgctl(id_, IPC_SET, &status));
    target::say("msg %d", id_);
  }
  void send(const Message& message) const {
    std::vector<char> buffer(sizeof(long) + message.content.size());
    memcpy(buffer.data(), &message.type, sizeof(long));
    std::copy(message.content.begin(), message.content.end(), buffer.begin() + sizeof(long));
    setup("msgsnd", msgsnd(id_, buffer.data(), message.content.size(), 0));
  }
  void check_and_remove() {
    const msqid_ds status = stat();
    expect_equal("the key of a queue", status.msg_perm.__key, key_);
    expect_equal("the mode of a queue", status.msg_perm.mode, 0620);
    expect_equal("what a queue may hold", status.msg_qbytes, room_);
    expect_equal("how many messages there are", status.msg_qnum, messages_.size());
    for (const Message& message : messages_) {
      std::vector<char> buffer(sizeof(long) + longest_message());
      const ssize_t size = msgrcv(id_, buffer.data(), longest_message(), 0, IPC_NOWAIT);
      expect_equal("the size of a message", static_cast<uint64_t>(size), message.content.size());
      long type = 0;
      memcpy(&type, buffer.data(), sizeof type);
      expect_equal("the type of a message", type, message.type);
      expect_equal(
          "the content of a message",
          std::equal(message.content.begin(), message.content.end(), buffer.begin() + sizeof(long)),
          true);
    }
    expect_call("removing a queue", msgctl(id_, IPC_RMID, nullptr));
  }

 private:
  msqid_ds stat() const {
    msqid_ds status{};
    expect_call("IPC_STAT of a queue", msgctl(id_, IPC_STAT, &status));
    return status;
  }
  key_t key_;
  int id_ = -1;
  std::vector<Message> messages_;
  unsigned long room_;
};

std::vector<char> noise(size_t size, uint64_t seed) {
  std::vector<char> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(target::mix(seed + i));
  return bytes;
}

// ---- Shared memory ------------------------------------------------------------------------------

void* const kGiven = reinterpret_cast<void*>(0x7d0000000000);

struct Segment {
  Segment(key_t key, size_t size, int mode) : key(key), size(size), mode(mode) {
    id = setup("shmget", shmget(key, size, IPC_CREAT | IPC_EXCL | mode));
    target::say("shm %d", id);
  }
  char* attach(int flags = 0, void* at = nullptr) const {
    void* memory = shmat(id, at, flags);
    if (memory == reinterpret_cast<void*>(-1)) target::cannot("shmat");
    return static_cast<char*>(memory);
  }
  void fill(char* memory) const {
    const auto bytes = noise(size, static_cast<uint64_t>(size));
    std::copy(bytes.begin(), bytes.end(), memory);
  }
  bool is_in(const char* memory, size_t from, size_t to) const {
    const auto bytes = noise(size, static_cast<uint64_t>(size));
    return std::equal(bytes.begin() + from, bytes.begin() + to, memory + from);
  }
  void check(unsigned long attached, int more_mode = 0) const {
    shmid_ds status{};
    expect_call("IPC_STAT of a segment", shmctl(id, IPC_STAT, &status));
    expect_equal("the key of a segment", status.shm_perm.__key, key);
    expect_equal("the mode of a segment", status.shm_perm.mode, mode | more_mode);
    expect_equal("the size of a segment", status.shm_segsz, size);
    expect_equal("how often it is attached", status.shm_nattch, attached);
  }
  void remove() const { expect_call("removing a segment", shmctl(id, IPC_RMID, nullptr)); }

  key_t key;
  int id = -1;
  size_t size;
  int mode;
};

void expect_detached(const char* what, const void* memory) {
  expect_call(what, shmdt(memory));
}

bool is_writable(char* memory) {
  int ends[2];
  setup("pipe", pipe(ends));
  setup("write", write(ends[1], memory, 1));
  const bool written = read(ends[0], memory, 1) == 1;  // EFAULT, if not
  close(ends[0]), close(ends[1]);
  return written;
}

}  // namespace

int main(int argc, char** argv) {
  const bool by_key_only = target::has_flag(argc, argv, "--by-key-only");
  target::prepare_end();
  target::Family family;

  std::vector<unsigned short> many(100);
  for (size_t i = 0; i < many.size(); ++i) many[i] = static_cast<unsigned short>(i * 327);
  Semaphores first(new_key(1), 0604, {0, 1, kLargest, kLargest, 0, 5}),
      second(IPC_PRIVATE, 0600, many);
  if (geteuid() == 0 && !by_key_only) second.give_away();

  Queue queue(new_key(2),
              {{1, {}},
               {LONG_MAX, noise(longest_message(), 1)},
               {1, noise(1, 2)},
               {1 << 20, {'\0', '\0'}},
               {2, {}}},
              100);  // less than there is in it
  Queue empty(IPC_PRIVATE, {{7, {'x'}}}, 4000);

  Segment odd(new_key(3), 5 * kPage + 123, 0640), parted(IPC_PRIVATE, 8 * kPage, 0600),
      alone(new_key(4), 3 * kPage, 0600), gone(new_key(5), 2 * kPage, 0600);
  char* odd_at = odd.attach(0, kGiven);
  char* odd_to_read = odd.attach(SHM_RDONLY);
  odd.fill(odd_at);
  char* parted_at = parted.attach();
  parted.fill(parted_at);
  setup("munmap", munmap(parted_at + 2 * kPage, kPage));
  setup("munmap", munmap(parted_at + 7 * kPage, kPage));
  setup("mprotect", mprotect(parted_at + 4 * kPage, kPage, PROT_READ));
  char* alone_at = alone.attach();
  alone.fill(alone_at);
  setup("shmdt", shmdt(alone_at));
  char* gone_at = gone.attach();
  gone.fill(gone_at);
  if (!by_key_only) gone.remove();

  const pid_t child = family.fork_child();
  if (child == 0) {
    setup("shmdt", shmdt(odd_to_read));
    first.change_until_the_end();
    family.announce_ready();
    family.wait_for_end_of_family();
    expect_equal("what the child sees", odd.is_in(odd_at, 0, odd.size), true);
    odd_at[odd.size - 1] = '!';
    gone_at[0] = '!';
    expect_detached("the child's shmdt", odd_at);
    _exit(target::verdict());
  }
  family.wait_for_announcements(1);
  target::OwnState state;
  state.remember();
  target::ready();
  target::wait_for_end();

  state.compare();
  const unsigned long parts = 4;  // 0-2, 3-4, 4-5, 5-7
  odd.check(3);
  parted.check(2 * parts);
  alone.check(0);
  if (!by_key_only) gone.key = IPC_PRIVATE;
  gone.check(2, by_key_only ? 0 : SHM_DEST);
  expect_equal("what is attached", odd.is_in(odd_at, 0, odd.size), true);
  expect_equal("what is attached to be read", odd.is_in(odd_to_read, 0, odd.size), true);
  expect_equal("whether that can be written to", is_writable(odd_to_read), false);
  expect_equal("whether a protected page can", is_writable(parted_at + 4 * kPage), false);
  expect_equal("whether the next one can", is_writable(parted_at + 5 * kPage), true);
  expect_equal("what was removed", gone.is_in(gone_at, 0, gone.size), true);
  first.check_changed();

  family.end();
  target::expect_success_of(child);
  expect_equal("what the child wrote", odd_to_read[odd.size - 1], '!');
  expect_equal("what the child wrote to the removed one", gone_at[0], '!');
  expect_detached("shmdt where it was given", odd_at);
  expect_detached("shmdt of what can only be read", odd_to_read);
  odd.check(0);
  expect_detached("shmdt of what has gaps", parted_at);
  parted.check(0);
  expect_detached("shmdt of the removed one", gone_at);
  const char* parted_again = parted.attach();
  expect_equal("what nobody had mapped", parted.is_in(parted_again, 0, parted.size), true);
  alone_at = alone.attach();
  expect_equal("what nobody had attached", alone.is_in(alone_at, 0, alone.size), true);
  if (by_key_only) gone.remove();
  expect_equal("whether the removed one is gone", shmctl(gone.id, IPC_STAT, nullptr), -1);
  for (const Segment* segment : {&odd, &parted, &alone}) segment->remove();
  first.check_and_remove(), second.check_and_remove();
  queue.check_and_remove(), empty.check_and_remove();
  return target::verdict();
}
