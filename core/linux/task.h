#pragma once

#include <fcntl.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/base/ids.h"
#include "core/linux/procfs.h"

namespace snapgdb {

// What system calls tell of another task. nullopt: the kernel refuses, or the task is gone.

struct SchedulingAttributes {  // sched_getattr(2)
  uint32_t policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime = 0, deadline = 0, period = 0;  // ns
};
std::optional<SchedulingAttributes> scheduling_of(Tid tid);
std::optional<uint32_t> io_priority_of(Tid tid);
// PIDFD_THREAD of pidfd_open(2), Linux 6.9; Debian 12's headers are older.
constexpr uint32_t kPidfdThread = O_EXCL;
// ns, PR_SET_TIMERSLACK. `task`: /proc/PID/task/TID.
std::optional<uint64_t> timer_slack_of(const ProcDirectory& task, Tid tid);
std::string timer_slack_file(Tid tid);  // where it stands, seen from there

struct RobustList {
  uint64_t head = 0, size = 0;
};
std::optional<RobustList> robust_list_of(Tid tid);

// A duplicate of another process's descriptor (pidfd_getfd(2), Linux 5.6); not valid, with errno
// set, where it is refused.
Fd duplicate_descriptor(Tid tid, int number);

// Whether two threads of a process have their root and working directory, and their table of
// descriptors, in common, as pthread_create(3) makes them. True where kcmp(2) is refused.
bool share_directories(Tid a, Tid b);
bool share_descriptors(Tid a, Tid b);
// What is undone of changes of System V semaphores.
bool share_semaphore_undo(Tid a, Tid b);

// What a process's children see by a clock beyond what the machine shows (time_namespaces(7)), ns;
// 0 where nothing is told.
int64_t clock_offset(Tid tid, int clock);

// Names what several tasks share, by kcmp(2): equal numbers, from 1, mean one object. Where kcmp is
// refused, everything counts as not shared. May be used by several threads.
class Identities {
 public:
  enum class Kind {
    kFileDescription,
    kDescriptorTable,
    kAddressSpace,
    kFileSystem,      // root and working directory, umask
    kSignalHandlers,  // what is done about signals
    kSemaphoreUndo    // of System V
  };
  explicit Identities(Kind kind) : kind_(kind), ids_(Less{kind}) {}
  // `number`: the descriptor, for kFileDescription.
  uint32_t of(Tid tid, int number = 0);
  // Of a file description that a descriptor of ours leads to. If it is new, that must stay open as
  // long as this is asked; otherwise it may be closed, and its number be another file's.
  uint32_t of_ours(int number);

 private:
  struct Key {
    Tid tid;
    int number = 0;
    auto operator<=>(const Key&) const = default;
  };
  struct Less {
    Kind kind;
    bool operator()(const Key& a, const Key& b) const;
  };
  uint32_t find_or_add(const Key& key);

  Kind kind_;
  std::mutex mutex_;
  std::map<Key, uint32_t, Less> ids_;
  std::map<int, std::pair<Key, uint32_t>> latest_;  // by number, of others' file descriptions
};

// What an epoll of that task, a descriptor of it, watches as `watched`, of several of that name the
// `nth`.
struct EpollSlot {
  Tid tid;
  int epoll = 0, watched = 0;
  uint32_t nth = 0;
};
// Whether the descriptor `number` of the task leads there. False where kcmp(2) is refused, and
// before Linux 4.13.
bool leads_to(Tid tid, int number, const EpollSlot& slot);
// Whether kcmp(2) compares descriptors of that task.
bool may_compare_files(Tid tid, int number);

// What can be asked of a socket that we hold a duplicate of.
struct SocketDescription {
  int domain = 0, type = 0, protocol = 0;
  std::string local, remote;  // as people write them; "" where there is none
  std::string state;
  uint32_t receive_queue = 0, send_queue = 0;  // bytes
  std::string local_address, remote_address;   // struct sockaddr_*
};
SocketDescription describe_socket(const Fd& socket);

}  // namespace snapgdb
