// POSIX message queues. What is in one belongs to an ipc namespace; it is known to a snapshot by
// the descriptors that lead to it.

#include "core/resource/message_queue.h"

#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/namespaces.h"
#include "core/linux/posix_queue.h"
#include "core/linux/task.h"
#include "core/resource/namespaces.h"
#include "core/resource/resources.h"
#include "core/resource/spaces.h"

namespace snapgdb {
namespace {

// The size of all such files (FILENT_SIZE, ipc/mqueue.c): few others are asked further.
constexpr off_t kSize = 80;

bool matches(const OpenDescriptor& open) {
  return S_ISREG(open.status.st_mode) && open.status.st_size == kSize &&
         is_message_queue(open.process.task_proc, open.number);
}

// ---- Capture ------------------------------------------------------------------------------------

std::set<Pid> pids_of(const FrozenTree& tree) {
  std::set<Pid> pids;
  for (const FrozenProcess& process : tree.processes) pids.insert(process.pid);
  return pids;
}

// Its description, or another one where that may not do so.
Fd queue_for(const OpenDescriptor& open, int access) {
  const auto has = static_cast<int>(open.info.number("flags", 8) & O_ACCMODE);
  return has == access || has == O_RDWR
             ? duplicate_descriptor(open.process.a_task(), open.number)
             : open.process.task_proc.open(fmt::format("fd/{}", open.number), access | O_NONBLOCK);
}

// "" if all may be taken out for a moment. Only where the tree ends anyway.
std::string why_not_taken(const CaptureContext& context, const OpenDescriptor& open,
                          const pb::MessageQueueFd& queue) {
  if (!context.ends)
    return "which cannot be read without taking them away; capture --kill does that";
  if (queue.notify_pid())
    return fmt::format("of which process {} would be told (mq_notify(3))", queue.notify_pid());
  if (is_open_elsewhere(open.status.st_dev, open.status.st_ino, pids_of(context.tree)))
    return "which processes outside of the tree could miss";
  return "";
}

void capture_messages(CaptureContext& context, const OpenDescriptor& open,
                      const QueueStatus& status, pb::MessageQueueFd& out) {
  if (status.messages == 0 || !context.takes_content_of(open.status.st_ino)) return;
  const auto lost = [&](std::string_view why) {
    context.lacks(open.process.pid, {}, fmt::format("content of message queue {}", open.target),
                  fmt::format("{} messages, {}", status.messages, why));
  };
  if (const std::string why = why_not_taken(context, open, out); !why.empty()) return lost(why);
  const Fd queue = queue_for(open, O_RDWR);
  if (!queue.valid()) return lost(errno_text(errno));
  for (PrioritizedMessage& message : take_and_send_again(queue, status)) {
    pb::MessageQueueFd::Message& record = *out.add_messages();
    record.set_priority(message.priority);
    record.set_content(std::move(message.content));
  }
}

void capture_registration(CaptureContext& context, const OpenDescriptor& open,
                          pb::MessageQueueFd& out) {
  const Fd to_read = queue_for(open, O_RDONLY);
  if (!to_read.valid())
    return context.lacks(open.process.pid, {},
                         fmt::format("who is told of messages in queue {}", open.target),
                         errno_text(errno));
  const QueueRegistration registration = registration_of(to_read);
  out.set_notify_kind(registration.kind);
  out.set_notify_signal(registration.signal);
  out.set_notify_pid(registration.process);
}

void capture(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::MessageQueueFd& queue = *out.mutable_message_queue();
  out.set_removed(open.status.st_nlink == 0);
  queue.set_name(open.target.substr(open.target.rfind('/')));
  queue.set_mode(open.status.st_mode & 07777);
  queue.set_owner(open.status.st_uid);
  queue.set_group(open.status.st_gid);
  const Fd same = duplicate_descriptor(open.process.a_task(), open.number);
  if (!same.valid())
    return context.lacks(open.process.pid, {}, "message queue " + open.target,
                         "pidfd_getfd(2) is refused");
  const QueueStatus status = status_of_queue(same);
  queue.set_maximum_messages(status.maximum_messages);
  queue.set_message_size(status.message_size);
  queue.set_queued(status.messages);
  capture_registration(context, open, queue);
  capture_messages(context, open, status, queue);
}

}  // namespace

void report_unopened_queues(CaptureContext& context, const std::vector<pb::Process>& processes,
                            const pb::SnapshotRecord& record) {
  std::multimap<uint64_t, const FrozenProcess*> members;
  std::map<uint64_t, std::set<std::string>> opened;
  for (size_t i = 0; i < processes.size(); ++i) {
    const uint64_t where = ipc_of(processes[i]);
    if (where == 0 || where == namespace_in(record.namespaces(), "ipc")) continue;
    members.emplace(where, &context.tree.processes[i]);
    for_each_descriptor(processes[i], [&](const pb::Descriptor& descriptor) {
      opened[where].insert(descriptor.message_queue().name());
    });
  }
  std::set<uint64_t> done;
  for (const auto& [where, member] : members) {
    std::vector<std::string> names;
    const Fd space = member->task_proc.open("ns/ipc", O_RDONLY | O_CLOEXEC);
    if (!space.valid() || !done.insert(where).second) continue;  // it may have ended since
    try {
      in_namespace(space, "ipc", [&names] { names = queue_names(); });
    } catch (const Error& error) {
      context.lacks(member->pid, {}, "message queues that nobody has open", error.why());
    }
    for (const std::string& name : names)
      if (!opened[where].contains(name))
        context.lacks(member->pid, {}, "message queue " + name, "nobody has it open");
  }
}

namespace {

// ---- The plan of a restore ----------------------------------------------------------------------

std::string words_for(const pb::MessageQueueFd& queue) {
  return fmt::format("message queue {}", printable(queue.name()));
}

class Planner {
 public:
  Planner(const Snapshot& snapshot, RestorePlan& plan)
      : snapshot_(snapshot), plan_(plan), queues_(plan.message_queues) {}

  // Those that have names first: the others may have had the same.
  void plan() {
    for (const bool removed : {false, true})
      for (const pb::Process& process : snapshot_.processes())
        for_each_descriptor(process, [&](const pb::Descriptor& descriptor) {
          if (descriptor.has_message_queue() && descriptor.removed() == removed)
            add(process, descriptor);
        });
  }

 private:
  // The descriptor at which the messages are tells most.
  void add(const pb::Process& process, const pb::Descriptor& descriptor) {
    const auto key = OpeningContext::key_of(descriptor);
    const auto [known, is_new] = queues_.try_emplace(key);
    MessageQueuePlan& queue = known->second;
    if (is_new || descriptor.message_queue().messages_size()) queue.example = &descriptor;
    if (!is_new) return;
    // It has been open since before its holder went to another one, where that knows others, too.
    queue.space = spaces_.try_emplace(descriptor.device(), ipc_of(process)).first->second;
    const bool is_new_space = is_new_ipc(plan_, queue.space);
    queue.name = descriptor.removed() ? free_name(descriptor.message_queue().name(), is_new_space)
                                      : descriptor.message_queue().name();
    queue.made = descriptor.removed() || is_new_space || !is_there(queue.name);
    const std::string why = queue.made ? why_not_made(descriptor.message_queue(), is_new_space)
                                       : why_another(descriptor.message_queue(), queue.name);
    if (!why.empty())
      plan_.obstacles.push_back({process.pid(), words_for(descriptor.message_queue()), why,
                                 "--isolated, or --without message_queue"});
  }

  // Of one that has lost its own: for as long as it takes to open it.
  std::string free_name(const std::string& wanted, bool is_new_space) const {
    std::string name = wanted;
    const auto is_taken = [&] {
      return (!is_new_space && is_there(name)) ||
             std::ranges::any_of(queues_,
                                 [&](const auto& other) { return other.second.name == name; });
    };
    for (int i = 0; is_taken(); ++i) name = fmt::format("{}.{}", wanted, i);
    return name;
  }

  static bool is_there(const std::string& name) {
    return open_queue(name, O_RDONLY).valid() || errno != ENOENT;
  }

  static std::string why_not_made(const pb::MessageQueueFd& wanted, bool is_new_space) {
    if (wanted.maximum_messages() == 0) return "what it may hold is not in the image";
    const QueueLimits limits = queue_limits();
    if (is_new_space || (wanted.maximum_messages() <= limits.messages &&
                         wanted.message_size() <= limits.message_size))
      return "";
    return fmt::format(
        "it holds {} messages of {} bytes; /proc/sys/fs/mqueue allows {} of {} bytes here",
        wanted.maximum_messages(), wanted.message_size(), limits.messages, limits.message_size);
  }

  // It is used as it is, if it can be.
  std::string why_another(const pb::MessageQueueFd& wanted, const std::string& name) const {
    const Fd there = open_queue(name, O_RDONLY | O_NONBLOCK);
    if (!there.valid()) return errno_text(errno);
    const QueueStatus status = status_of_queue(there);
    if (status.maximum_messages != wanted.maximum_messages() ||
        status.message_size != wanted.message_size())
      return "another one has its name now";
    if (status.messages != wanted.queued())
      plan_.notes.push_back(
          fmt::format("{} is there, with {} messages instead of {}: it is used "
                      "as it is",
                      words_for(wanted), status.messages, wanted.queued()));
    return "";
  }

  const Snapshot& snapshot_;
  RestorePlan& plan_;
  std::map<MessageQueuePlan::Key, MessageQueuePlan>& queues_;
  std::map<uint64_t, uint64_t> spaces_;  // by device: that of the first who has such a queue
};

}  // namespace

void plan_message_queues(const Snapshot& snapshot, bool without, RestorePlan& plan) {
  if (!without) Planner(snapshot, plan).plan();
}

// ---- Making them --------------------------------------------------------------------------------

void MadeMessageQueues::make(const RestorePlan& plan, uint64_t space) {
  for (const auto& [key, queue] : plan.message_queues) {
    if (!queue.made || queue.space != space) continue;
    const pb::MessageQueueFd& record = queue.example->message_queue();
    const Fd made = make_queue(queue.name, record.maximum_messages(), record.message_size(),
                               is_new_ipc(plan, space));
    if (!made.valid()) throw_errno("cannot make {}", words_for(record));
    made_.push_back(queue.name);
    std::vector<PrioritizedMessage> messages;
    for (const auto& message : record.messages())
      messages.push_back({message.priority(), message.content()});
    send_messages(made, messages);
  }
}

MadeMessageQueues::~MadeMessageQueues() {
  for (const std::string& name : made_) ::mq_unlink(name.c_str());
}

namespace {

const MessageQueuePlan& plan_of(const RestorePlan& plan, const pb::Descriptor& descriptor) {
  return plan.message_queues.at(OpeningContext::key_of(descriptor));
}

std::string obstacle(const Snapshot&, const pb::Descriptor&) {
  return "";  // plan_message_queues() tells, once for all that lead to it
}

Fd open(OpeningContext& context, const pb::Descriptor& descriptor) {
  const MessageQueuePlan& queue = plan_of(context.plan, descriptor);
  Fd fd;
  context.spaces->in("ipc", queue.space, [&] {
    fd = open_queue(queue.name, descriptor.flags());
    if (!fd.valid()) throw_errno("cannot open {}", words_for(descriptor.message_queue()));
  });
  if (descriptor.position()) go_to_position(fd, descriptor);  // cat(1) has read what it tells
  return fd;
}

std::string note(const pb::Descriptor& descriptor) {
  const pb::MessageQueueFd& queue = descriptor.message_queue();
  if (!queue.notify_pid()) return "";
  if (queue.notify_kind() == SIGEV_SIGNAL)
    return "the signal that tells of a message has the value 0: the kernel does not show it";
  return queue.notify_kind() == SIGEV_THREAD
             ? "nobody is told of a message any more: the kernel does not show by which socket"
             : "";
}

}  // namespace

void finish_message_queues(OpeningContext& context, const RestorePlan& plan,
                           const std::vector<Fd>& files) {
  std::set<std::pair<uint64_t, std::string>> done;
  for (size_t i = 0; i < files.size(); ++i) {
    const pb::Descriptor* descriptor = plan.files[i].descriptor;
    if (plan.files[i].how != PlannedFile::How::kOpened || !descriptor ||
        !descriptor->has_message_queue())
      continue;
    const MessageQueuePlan& queue = plan_of(plan, *descriptor);
    if (!queue.made || !done.insert({queue.space, queue.name}).second) continue;
    const pb::MessageQueueFd& record = descriptor->message_queue();
    if (::fchown(files[i].get(), record.owner(), record.group()) != 0 && ::geteuid() == 0)
      context.notes.push_back(
          fmt::format("{} gets another owner: {}", words_for(record), errno_text(errno)));
    if (::fchmod(files[i].get(), record.mode()) != 0)
      throw_errno("cannot set the rights of {}", words_for(record));
    if (descriptor->removed())
      context.spaces->in("ipc", queue.space, [&] { remove_queue(queue.name); });
  }
}

void register_for_messages(RestoreContext& context, const pb::Process& process, Seed& seed) {
  std::set<OpeningContext::ObjectKey> done;
  for (const pb::Descriptor& descriptor : process.descriptors()) {
    const pb::MessageQueueFd& queue = descriptor.message_queue();
    const bool is_its_own =
        queue.notify_pid() == process.pid() && queue.notify_kind() != SIGEV_THREAD &&
        context.plan.message_queues.contains(OpeningContext::key_of(descriptor));
    if (!is_its_own || !done.insert(OpeningContext::key_of(descriptor)).second) continue;
    sigevent event{};
    event.sigev_notify = static_cast<int>(queue.notify_kind());
    event.sigev_signo = static_cast<int>(queue.notify_signal());
    seed.add_if_allowed("register for " + words_for(queue), SYS_mq_notify,
                        {static_cast<uint64_t>(descriptor.number()), seed.put_value(event)});
  }
  context.perform(seed, process.pid());
}

const DescriptorRestorer kMessageQueueRestorer{pb::Descriptor::kMessageQueue, obstacle, open, note};
const DescriptorResource kMessageQueue{"message queue", matches, capture};

}  // namespace snapgdb
