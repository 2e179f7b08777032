#include "core/resource/unix_messages.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <set>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/resource/sharing.h"
#include "core/resource/unix_records.h"

namespace snapgdb {

void give_room(const Fd& socket, int size) {
  for (const int name : {SO_SNDBUF, SO_SNDBUFFORCE})
    ::setsockopt(socket.get(), SOL_SOCKET, name, &size, sizeof size);
}

void send_message(const Fd& from, const pb::QueuedMessage& message, const std::vector<int>& files,
                  const ucred* sender, const std::string* address) {
  std::string companions;
  const auto add = [&](int type, const void* data, size_t size) {
    const size_t at = companions.size();
    companions.resize(at + CMSG_SPACE(size));
    cmsghdr header{.cmsg_len = CMSG_LEN(size), .cmsg_level = SOL_SOCKET, .cmsg_type = type};
    std::memcpy(companions.data() + at, &header, sizeof header);
    std::memcpy(companions.data() + at + CMSG_LEN(0), data, size);
  };
  if (!files.empty()) add(SCM_RIGHTS, files.data(), files.size() * sizeof(int));
  if (sender) add(SCM_CREDENTIALS, sender, sizeof *sender);
  std::string content = message.content();
  do {
    iovec data{content.data(), content.size()};
    msghdr header{};
    if (address)
      header.msg_name = const_cast<char*>(address->data()),
      header.msg_namelen = static_cast<socklen_t>(address->size());
    header.msg_iov = &data, header.msg_iovlen = 1;
    header.msg_control = companions.empty() ? nullptr : companions.data();
    header.msg_controllen = companions.size();
    const ssize_t sent = ::sendmsg(
        from.get(), &header,
        MSG_DONTWAIT | MSG_NOSIGNAL | (message.out_of_band() ? static_cast<int>(MSG_OOB) : 0));
    if (sent < 0) throw_errno("cannot send a message of {} bytes again", content.size());
    content.erase(0, static_cast<size_t>(sent));
    companions.clear();
  } while (!content.empty());
}

void shut_down(const Fd& socket, const pb::Descriptor& record) {
  constexpr int kHow[] = {-1, SHUT_RD, SHUT_WR, SHUT_RDWR};
  const uint32_t shut = record.socket().shutdown() & (kShutReceive | kShutSend);
  if (shut && ::shutdown(socket.get(), kHow[shut]) != 0 && errno != ENOTCONN)
    throw_errno("cannot shut down {}", printable(record.target()));
}

namespace {

// An option that is otherwise for as long as this lives. `give`: how it is set.
class ScopedOption {
 public:
  using Give = void (*)(const Fd&, int);
  ScopedOption(const Fd& socket, int name, int value, int unit, Give give)
      : socket_(socket), unit_(unit), give_(give) {
    socklen_t size = sizeof before_;
    is_known_ = ::getsockopt(socket.get(), SOL_SOCKET, name, &before_, &size) == 0;
    give(socket, value);
  }
  ~ScopedOption() {
    if (is_known_) give_(socket_, before_ / unit_);
  }
  ScopedOption(const ScopedOption&) = delete;

 private:
  const Fd& socket_;
  int before_ = 0, unit_;
  bool is_known_ = false;
  Give give_;
};

void show_senders(const Fd& socket, int on) {
  ::setsockopt(socket.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
}

void peek_from(const Fd& socket, int offset) {
  ::setsockopt(socket.get(), SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset);
}

// What UnixNetwork::hold_sender() has put there.
Fd take_held_sender(const Fd& receiver, const pb::Descriptor& record) {
  alignas(cmsghdr) char control[1024];
  char byte = 0;
  iovec data{&byte, 1};
  msghdr message{};
  message.msg_iov = &data, message.msg_iovlen = 1;
  message.msg_control = control, message.msg_controllen = sizeof control;
  if (::recvmsg(receiver.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) < 0)
    throw_errno("cannot tell who sends to {}", printable(record.target()));
  for (const cmsghdr* header = CMSG_FIRSTHDR(&message); header;
       header = CMSG_NXTHDR(&message, const_cast<cmsghdr*>(header))) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    int number = -1;
    std::memcpy(&number, CMSG_DATA(header), sizeof number);
    return Fd(number);
  }
  throw Error("cannot tell who sends to " + printable(record.target()), "nobody is held there");
}

// As the kernel takes it from root only.
std::optional<ucred> sender_shown(const RestoreContext& context, const pb::QueuedMessage& message) {
  ucred sender{};
  if (message.credentials().size() != sizeof sender) return std::nullopt;
  std::memcpy(&sender, message.credentials().data(), sizeof sender);
  const pb::Process* process = context.snapshot.process(sender.pid);
  sender.pid = process && !is_zombie(*process) ? context.seed_of(*process).tid().value : ::getpid();
  return sender;
}

void send_late(RestoreContext& context, const Fd& from, const pb::QueuedMessage& message,
               const pb::Descriptor& to) {
  std::vector<Fd> held;
  std::vector<int> files;
  for (const uint32_t description : message.descriptions()) {
    const auto found = context.plan.by_description.find(description);
    if (found == context.plan.by_description.end())
      throw Error("cannot send a message again", "a descriptor in it is not in the image");
    files.push_back(held.emplace_back(planned_file(context, found->second)).get());
  }
  const auto shown = sender_shown(context, message);
  try {
    return send_message(from, message, files, shown ? &*shown : nullptr, nullptr);
  } catch (const SystemError& error) {
    if (!shown || error.error_number() != EPERM) throw;
  }
  const ucred us{::getpid(), ::geteuid(), ::getegid()};
  send_message(from, message, files, &us, nullptr);
  context.notes.push_back(fmt::format(
      "a message to {} shows another sender: that takes root, since it carries what is opened when "
      "all others have been sent",
      printable(to.target())));
}

void fill_late(RestoreContext& context, const Fd& receiver, const pb::Descriptor& record) {
  const ScopedOption peeking(receiver, SO_PEEK_OFF, -1, 1, peek_from);  // reading moves it
  const Fd sender = take_held_sender(receiver, record);
  const ScopedOption room(sender, SO_SNDBUF, kMuchRoom, 2, give_room);  // which is told doubled
  const ScopedOption one(receiver, SO_PASSCRED, 0, 1, show_senders),
      other(sender, SO_PASSCRED, 0, 1, show_senders);
  for (const pb::QueuedMessage& message : record.socket().queue())
    send_late(context, sender, message, record);
}

}  // namespace

void fill_sockets_late(RestoreContext& context) {
  const std::set<uint64_t> late = filled_late(context.snapshot, context.plan);
  const auto for_each_socket = [&](auto is_it, auto what) {
    for (size_t i = 0; i < context.plan.files.size() && !late.empty(); ++i) {
      const PlannedFile& file = context.plan.files[i];
      if (file.how == PlannedFile::How::kOpened && file.descriptor && is_unix(*file.descriptor) &&
          is_it(*file.descriptor))
        what(planned_file(context, i), *file.descriptor);
    }
  };
  const auto is_late = [&](const pb::Descriptor& one) { return late.contains(one.inode()); };
  for_each_socket(is_late, [&](const Fd& receiver, const pb::Descriptor& record) {
    fill_late(context, receiver, record);
  });
  const auto is_of_both = [&](const pb::Descriptor& one) {
    return is_late(one) || late.contains(one.socket().peer_inode());
  };
  for_each_socket(is_of_both, shut_down);
}

}  // namespace snapgdb
