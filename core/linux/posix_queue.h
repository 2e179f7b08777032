#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/base/ids.h"
#include "core/linux/procfs.h"

namespace snapgdb {

// POSIX message queues, mq_overview(7), as the kernel has them in the ipc namespace of the calling
// thread. What fails throws SystemError.

// Whether the descriptor of that process leads to one. Of a file system that may not answer, it is
// not to be asked.
bool is_message_queue(const ProcDirectory& proc, int number);

struct QueueStatus {
  uint64_t maximum_messages = 0, message_size = 0;  // what it may hold
  uint64_t messages = 0;                            // in it
};
QueueStatus status_of_queue(const Fd& queue);
struct QueueRegistration {        // of mq_notify(3)
  uint32_t kind = 0, signal = 0;  // SIGEV_*
  int32_t process = 0;            // that is told when a message comes; 0: nobody
};
// `queue`: opened to be read.
QueueRegistration registration_of(const Fd& queue);
// Whether the process is told of messages in a queue that it has open. The end of any thread with a
// table of descriptors of its own ends that (mqueue_flush_file(), ipc/mqueue.c).
bool is_told_of_messages(const ProcDirectory& proc, Pid pid);

struct PrioritizedMessage {
  uint32_t priority = 0;
  std::string content;

  bool operator==(const PrioritizedMessage&) const = default;
};
// All messages, in order. The kernel shows none without giving it away: they are taken and sent
// again, by a process of its own, which also does so if we are killed meanwhile. Who looks then
// finds the queue empty, and who was to be told of a message is told. `queue`: to be read and
// written.
std::vector<PrioritizedMessage> take_and_send_again(const Fd& queue, const QueueStatus& status);

void send_messages(const Fd& queue, const std::vector<PrioritizedMessage>& messages);

// Whether a process that is not among those has it open, as far as we may look.
bool is_open_elsewhere(uint64_t device, uint64_t inode, const std::set<Pid>& pids);

// "/name", of all that have one. Precondition: the calling process is one for that
// (in_namespace()): its mount namespace becomes another one.
std::vector<std::string> queue_names();

// By its name, "/name"; `flags` of mq_open(3) without O_CREAT. Not valid, with errno set, on
// failure.
Fd open_queue(const std::string& name, uint32_t flags);
// A new one, for us alone. In an ipc namespace of our own, limits are raised where they are in the
// way. Not valid, with errno set, on failure.
Fd make_queue(const std::string& name, uint64_t maximum_messages, uint64_t message_size,
              bool may_raise_limits);
void remove_queue(const std::string& name);
// The largest that those may make who lack CAP_SYS_RESOURCE.
struct QueueLimits {
  uint64_t messages = 0, message_size = 0;
};
QueueLimits queue_limits();

}  // namespace snapgdb
