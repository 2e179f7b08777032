#include "core/linux/message_queue.h"

#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "core/base/error.h"

namespace snapgdb {
namespace {

constexpr int kScmPidfd = 4;  // SCM_PIDFD, Linux 6.5

int option(const Fd& socket, int name) {
  int value = 0;
  socklen_t size = sizeof value;
  if (::getsockopt(socket.get(), SOL_SOCKET, name, &value, &size) != 0)
    throw_errno("cannot ask a socket for an option");
  return value;
}

// Where MSG_PEEK looks; as it was in the end. It is left alone where the beginning is all that is
// asked for, which is cheaper.
class PeekOffset {
 public:
  PeekOffset(const Fd& socket, OptionGuard& guard)
      : guard_(guard), before_(peek_offset_of(socket)) {}

  void go_to(size_t offset) {
    if (!scope_ && offset == 0 && before_.value < 0) return;
    if (!scope_) scope_.emplace(guard_, &before_, 1);
    const auto value = static_cast<int>(offset);
    if (::setsockopt(before_.socket, SOL_SOCKET, SO_PEEK_OFF, &value, sizeof value) != 0)
      throw_errno("cannot look into the queue of a socket");
  }

 private:
  OptionGuard& guard_;
  const OptionGuard::Change before_;
  std::optional<OptionGuard::Scope> scope_;
};

void add_companion(const cmsghdr& header, PeekedMessage& message) {
  const unsigned char* data = CMSG_DATA(&header);
  const size_t size = header.cmsg_len - CMSG_LEN(0);
  const auto descriptors = [&](std::vector<Fd>& out) {
    for (size_t i = 0; i + sizeof(int) <= size; i += sizeof(int)) {
      int fd = -1;
      std::memcpy(&fd, data + i, sizeof fd);
      out.emplace_back(fd);
    }
  };
  if (header.cmsg_level != SOL_SOCKET) return;
  if (header.cmsg_type == SCM_RIGHTS) descriptors(message.descriptors);
  if (header.cmsg_type == SCM_CREDENTIALS && size >= sizeof(ucred))
    std::memcpy(&message.credentials.emplace(), data, sizeof(ucred));
  if (std::vector<Fd> ours; header.cmsg_type == kScmPidfd) descriptors(ours);
}

class Queue {
 public:
  Queue(const Fd& socket, OptionGuard& guard) : socket_(socket), offset_(socket, guard) {}

  struct Piece {
    ssize_t size = 0;  // of the whole datagram; -1 with errno
    PeekedMessage message;
  };
  // Up to so many bytes from `offset` on.
  Piece peek(size_t offset, size_t size, int flags = 0) {
    offset_.go_to(offset);
    Piece piece;
    piece.message.content.resize(size);
    sockaddr_storage sender{};
    iovec data{piece.message.content.data(), size};
    // 253 descriptors (SCM_MAX_FD), and all else that may come.
    alignas(cmsghdr) char companions[8192];
    msghdr message{};
    message.msg_name = &sender, message.msg_namelen = sizeof sender;
    message.msg_iov = &data, message.msg_iovlen = 1;
    message.msg_control = companions, message.msg_controllen = sizeof companions;
    piece.size = ::recvmsg(socket_.get(), &message,
                           MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_NOSIGNAL | flags);
    if (piece.size < 0) return piece;
    for (const cmsghdr* header = CMSG_FIRSTHDR(&message); header;
         header = CMSG_NXTHDR(&message, const_cast<cmsghdr*>(header)))
      add_companion(*header, piece.message);
    if (message.msg_flags & MSG_CTRUNC)
      throw Error("cannot read the queue of a socket", "descriptors in it could not be received",
                  "raise the limit of descriptors (ulimit -n)");
    piece.message.content.resize(std::min(static_cast<size_t>(piece.size), size));
    piece.message.sender.assign(reinterpret_cast<const char*>(&sender), message.msg_namelen);
    return piece;
  }

  void go_to(size_t offset) { offset_.go_to(offset); }
  short events(short wanted) const {
    pollfd poll{socket_.get(), wanted, 0};
    ::poll(&poll, 1, 0);
    return poll.revents;
  }
  int ask(unsigned long what) const {
    int value = 0;
    if (::ioctl(socket_.get(), what, &value) != 0) throw_errno("cannot ask a socket for its queue");
    return value;
  }
  const Fd& socket() const { return socket_; }

 private:
  const Fd& socket_;
  PeekOffset offset_;
};

// ---- Streams ------------------------------------------------------------------------------------

// Memory of which everything can be written to but the last byte.
class LackingOne {
 public:
  explicit LackingOne(size_t size)
      : size_(size),
        writable_((size + kPage - 1) / kPage * kPage),
        mapping_(
            ::mmap(nullptr, writable_ + kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    if (mapping_ == MAP_FAILED || ::mprotect(mapping_, writable_, PROT_READ | PROT_WRITE) != 0)
      throw_errno("cannot map memory");
  }
  ~LackingOne() { ::munmap(mapping_, writable_ + kPage); }
  LackingOne(const LackingOne&) = delete;
  LackingOne& operator=(const LackingOne&) = delete;
  iovec whole() const { return {static_cast<char*>(mapping_) + writable_ - (size_ - 1), size_}; }

 private:
  static constexpr size_t kPage = 4096;
  size_t size_, writable_;
  void* mapping_;
};

// A read ends behind what came with descriptors, and the kernel tells only of those pieces of the
// queue that it could copy as a whole: without room for the last byte, it copies all but the last.
size_t start_of_last(Queue& queue, size_t offset, size_t size) {
  const LackingOne memory(size);
  iovec data = memory.whole();
  queue.go_to(offset);
  msghdr message{};
  message.msg_iov = &data, message.msg_iovlen = 1;
  const ssize_t copied =
      ::recvmsg(queue.socket().get(), &message, MSG_PEEK | MSG_DONTWAIT | MSG_NOSIGNAL);
  if (copied < 0 && errno != EFAULT) throw_errno("cannot read the queue of a socket");
  return copied < 0 ? 0 : static_cast<size_t>(copied);
}

PeekedMessage urgent_byte(const Fd& socket) {
  PeekedMessage message{.content = std::string(1, '\0'), .out_of_band = true};
  if (::recv(socket.get(), message.content.data(), 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT) != 1)
    throw_errno("cannot read an urgent byte");
  return message;
}

void add_piece(Queue& queue, size_t offset, Queue::Piece piece, PeekedQueue& out) {
  PeekedMessage& message = piece.message;
  const size_t plain =
      message.descriptors.empty() ? 0 : start_of_last(queue, offset, message.content.size());
  if (plain > 0) {
    out.messages.push_back(
        {.content = message.content.substr(0, plain), .credentials = message.credentials});
    message.content.erase(0, plain);
  }
  out.messages.push_back(std::move(message));
}

// Never asks for more than is there: that could take away a pending error. A read ends before an
// urgent byte (MSG_OOB), and passes over one at its beginning that is not to be received inline;
// one that SO_PEEK_OFF points to is read like others (manage_oob() and unix_stream_read_generic(),
// net/unix/af_unix.c, Linux 6.10).
void peek_stream(Queue& queue, PeekedQueue& out) {
  auto end = static_cast<size_t>(queue.ask(SIOCINQ));
  size_t at = 0;
  bool urgent = queue.events(POLLPRI) & POLLPRI;
  if (urgent && queue.ask(SIOCATMARK)) {
    urgent = false;
    if (option(queue.socket(), SO_OOBINLINE)) {
      out.messages.push_back(std::move(queue.peek(at++, 1).message));
      out.messages.back().out_of_band = true;
    } else {
      out.messages.push_back(urgent_byte(queue.socket()));
      --end;
    }
  }
  while (at < end) {
    Queue::Piece piece = queue.peek(at, end - at);
    if (piece.size < 0) throw_errno("cannot read the queue of a socket");
    if (piece.size == 0) throw Error("cannot read the queue of a socket", "it ends early");
    const size_t read = piece.message.content.size();
    const bool before_mark = urgent && read < end - at && piece.message.descriptors.empty();
    add_piece(queue, at, std::move(piece), out);
    at += read;
    if (!before_mark) continue;
    out.messages.push_back(std::move(queue.peek(at++, 1).message));
    out.messages.back().out_of_band = true;
    urgent = false;
  }
}

// ---- Datagrams ----------------------------------------------------------------------------------

// Reading takes a pending error away first (__skb_try_recv_datagram()).
void peek_datagrams(Queue& queue, PeekedQueue& out) {
  const short events = queue.events(POLLIN | POLLRDHUP);
  if (!(events & POLLIN)) return;
  if (events & POLLERR && queue.ask(SIOCINQ) == 0) return;
  if (events & POLLERR)
    throw Error("cannot read the queue of a socket", "that would take its pending error away");
  constexpr size_t kUsual = 64 * 1024;
  constexpr size_t kMaxEmpty = 16;
  // Who is at the end of a connection reads empty packets without end, unlike one that was sent.
  const bool has_end = events & POLLRDHUP;
  size_t empty = 0;
  for (size_t at = 0; empty <= kMaxEmpty;) {
    Queue::Piece piece = queue.peek(at, kUsual, MSG_TRUNC);
    if (piece.size > static_cast<ssize_t>(kUsual))
      piece = queue.peek(at, static_cast<size_t>(piece.size), MSG_TRUNC);
    if (piece.size < 0 && errno == EAGAIN) {
      empty = 0;
      break;
    }
    if (piece.size < 0) throw_errno("cannot read the queue of a socket");
    at += static_cast<size_t>(piece.size);
    if (has_end) empty = piece.size == 0 ? empty + 1 : 0;
    out.messages.push_back(std::move(piece.message));
  }
  out.messages.resize(out.messages.size() - empty);
}

}  // namespace

PeekedQueue peek_queue(const Fd& socket, int type, OptionGuard& guard) {
  PeekedQueue out;
  try {
    Queue queue(socket, guard);
    (type == SOCK_STREAM ? peek_stream : peek_datagrams)(queue, out);
  } catch (const Error& error) {
    out.why_incomplete = error.what();
  }
  return out;
}

}  // namespace snapgdb
