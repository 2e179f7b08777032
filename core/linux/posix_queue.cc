#include "core/linux/posix_queue.h"

#include <fcntl.h>
#include <mqueue.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/helper_process.h"

namespace snapgdb {
namespace {

constexpr long kMagic = 0x19800202;  // MQUEUE_MAGIC, ipc/mqueue.c
constexpr const char* kMostMessages = "/proc/sys/fs/mqueue/msg_max";
constexpr const char* kLargestMessage = "/proc/sys/fs/mqueue/msgsize_max";

constexpr timespec kAtOnce{};  // also where the descriptor would wait

uint64_t setting(const char* path) {
  uint64_t value = 0;
  std::ifstream(path) >> value;
  return value;
}

void raise(const char* path, uint64_t wanted) {
  if (setting(path) < wanted) std::ofstream(path) << wanted << std::flush;
}

// "QSIZE:129 NOTIFY:2 SIGNO:0 NOTIFY_PID:8260", mq_overview(7).
uint64_t number_in(const std::string& text, std::string_view key) {
  for (const std::string_view field : split_blank(text))
    if (field.starts_with(key)) return parse_number<uint64_t>(field.substr(key.size())).value_or(0);
  return 0;
}

// No more than there were: another process may send meanwhile.
std::vector<PrioritizedMessage> take(const Fd& queue, const QueueStatus& status) {
  std::vector<PrioritizedMessage> messages;
  messages.reserve(status.messages);
  std::string buffer(status.message_size, '\0');
  while (messages.size() < status.messages) {
    unsigned priority = 0;
    const ssize_t n =
        ::mq_timedreceive(queue.get(), buffer.data(), buffer.size(), &priority, &kAtOnce);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) break;  // somebody else was faster
    messages.push_back({priority, buffer.substr(0, static_cast<size_t>(n))});
  }
  return messages;
}

}  // namespace

bool is_message_queue(const ProcDirectory& proc, int number) {
  struct statfs status {};
  return ::statfs(fmt::format("{}/fd/{}", proc.path(), number).c_str(), &status) == 0 &&
         status.f_type == kMagic;
}

bool is_told_of_messages(const ProcDirectory& proc, Pid pid) {
  for (const std::string& name : proc.list("fd")) {
    const auto number = parse_number<int>(name);
    const auto target = proc.link_if_allowed("fd/" + name);  // of a queue: "/name"
    if (!number || !target || !target->starts_with('/') || target->find('/', 1) != target->npos)
      continue;
    if (!is_message_queue(proc, *number)) continue;
    const Fd queue = proc.open("fd/" + name, O_RDONLY);
    if (queue.valid() && registration_of(queue).process == pid.value) return true;
  }
  return false;
}

QueueStatus status_of_queue(const Fd& queue) {
  mq_attr attributes{};
  if (::mq_getattr(queue.get(), &attributes) != 0) throw_errno("cannot ask a message queue");
  return {.maximum_messages = static_cast<uint64_t>(attributes.mq_maxmsg),
          .message_size = static_cast<uint64_t>(attributes.mq_msgsize),
          .messages = static_cast<uint64_t>(attributes.mq_curmsgs)};
}

QueueRegistration registration_of(const Fd& queue) {
  std::string text(256, '\0');
  text.resize(pread_upto(queue.get(), std::as_writable_bytes(std::span(text)), 0, "a queue"));
  return {.kind = static_cast<uint32_t>(number_in(text, "NOTIFY:")),
          .signal = static_cast<uint32_t>(number_in(text, "SIGNO:")),
          .process = static_cast<int32_t>(number_in(text, "NOTIFY_PID:"))};
}

std::vector<PrioritizedMessage> take_and_send_again(const Fd& queue, const QueueStatus& status) {
  std::vector<PrioritizedMessage> messages;
  const auto work = [&] {
    messages = take(queue, status);
    send_messages(queue, messages);
  };
  in_helper_process(work);
  return messages;
}

void send_messages(const Fd& queue, const std::vector<PrioritizedMessage>& messages) {
  for (const PrioritizedMessage& message : messages)
    while (::mq_timedsend(queue.get(), message.content.data(), message.content.size(),
                          message.priority, &kAtOnce) != 0)
      if (errno != EINTR) throw_errno("cannot send the messages of a queue");
}

bool is_open_elsewhere(uint64_t device, uint64_t inode, const std::set<Pid>& pids) {
  namespace fs = std::filesystem;
  std::error_code gone;  // and not allowed
  for (const fs::directory_entry& process : fs::directory_iterator("/proc")) {
    const auto pid = parse_number<pid_t>(process.path().filename().native());
    if (!pid || *pid == ::getpid() || pids.contains(Pid{*pid})) continue;
    for (fs::directory_iterator fd(process.path() / "fd", gone), end; !gone && fd != end;
         fd.increment(gone)) {
      struct stat status {};
      if (::stat(fd->path().c_str(), &status) == 0 && status.st_dev == device &&
          status.st_ino == inode)
        return true;
    }
  }
  return false;
}

std::vector<std::string> queue_names() {
  constexpr const char* kTried = "cannot list message queues";
  if (::unshare(CLONE_NEWNS) != 0) throw_errno("{}", kTried);
  const Fd context(::fsopen("mqueue", FSOPEN_CLOEXEC));
  if (!context.valid() && errno == ENODEV) return {};  // this kernel has none
  if (!context.valid() || ::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    throw_errno("{}", kTried);
  const Fd mount(::fsmount(context.get(), FSMOUNT_CLOEXEC, 0));
  if (!mount.valid()) throw_errno("{}", kTried);
  std::vector<std::string> names;
  std::error_code failure;
  const std::string top = fmt::format("/proc/self/fd/{}", mount.get());
  for (std::filesystem::directory_iterator entry(top, failure), end; !failure && entry != end;
       entry.increment(failure))
    names.push_back("/" + entry->path().filename().string());
  if (failure) throw SystemError(kTried, failure.value());
  return names;
}

Fd open_queue(const std::string& name, uint32_t flags) {
  constexpr uint32_t kKept = O_ACCMODE | O_NONBLOCK;
  return Fd(::mq_open(name.c_str(), static_cast<int>(flags & kKept) | O_CLOEXEC));
}

Fd make_queue(const std::string& name, uint64_t maximum_messages, uint64_t message_size,
              bool may_raise_limits) {
  if (may_raise_limits)
    raise(kMostMessages, maximum_messages), raise(kLargestMessage, message_size);
  mq_attr attributes{};
  attributes.mq_maxmsg = static_cast<long>(maximum_messages);
  attributes.mq_msgsize = static_cast<long>(message_size);
  return Fd(::mq_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK | O_CLOEXEC, 0600,
                      &attributes));
}

void remove_queue(const std::string& name) {
  if (::mq_unlink(name.c_str()) != 0) throw_errno("cannot remove queue {}", printable(name));
}

QueueLimits queue_limits() {
  return {setting(kMostMessages), setting(kLargestMessage)};
}

}  // namespace snapgdb
