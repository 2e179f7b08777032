// POSIX message queues at the ends of what is possible: full ones and empty ones, all priorities,
// messages of no and of all bytes, one that has lost its name, one that nobody may open, and
// processes that wait for messages or are told of them.
//
// --without-content: nothing is in those that have no name.

#include <fcntl.h>
#include <mqueue.h>
#include <sys/stat.h>
#include <sys/syscall.h>
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

constexpr unsigned kHighest = 32767;  // MQ_PRIO_MAX - 1

std::string name_of(const char* which) {
  return "/snapgdb-" + std::to_string(getpid()) + "-" + which;
}

struct Message {
  unsigned priority;
  std::string content;
};

std::string noise(size_t size, uint64_t seed) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(target::mix(seed + i));
  return bytes;
}

class Queue {
 public:
  Queue(const char* which, long most, long size, mode_t mode)
      : name_(name_of(which)), most_(most), size_(size), mode_(mode) {
    mq_attr attributes{};
    attributes.mq_maxmsg = most, attributes.mq_msgsize = size;
    fd_ = setup("mq_open",
                mq_open(name_.c_str(), O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK, 0600, &attributes));
    setup("fchmod", fchmod(fd_, mode));
    target::say("mq %s", name_.c_str());
  }
  void send(std::vector<Message> messages) {
    for (const Message& message : messages) {
      setup("mq_send",
            mq_send(fd_, message.content.data(), message.content.size(), message.priority));
      sent_.push_back(message);
    }
    // They come by priority, and as they were sent.
    std::stable_sort(sent_.begin(), sent_.end(),
                     [](const Message& a, const Message& b) { return a.priority > b.priority; });
  }
  int fd() const { return fd_; }
  int open_again(int flags) const { return setup("mq_open", mq_open(name_.c_str(), flags)); }
  void unlink() const { setup("mq_unlink", mq_unlink(name_.c_str())); }

  void expect_kept(bool has_name) const {
    mq_attr now{};
    struct stat status {};
    expect_call("mq_getattr", mq_getattr(fd_, &now));
    expect_call("fstat", fstat(fd_, &status));
    expect_equal("how many messages it may hold", now.mq_maxmsg, most_);
    expect_equal("how long they may be", now.mq_msgsize, size_);
    expect_equal("its flags", now.mq_flags, O_NONBLOCK);
    expect_equal("its mode", status.st_mode & 07777, mode_);
    expect_equal("its owner", status.st_uid, geteuid());
    expect_equal("its links", status.st_nlink, has_name ? 1 : 0);
    expect_equal("how many messages there are", now.mq_curmsgs, sent_.size());
  }
  void expect_messages(int from) const {
    std::string buffer(static_cast<size_t>(size_), '\0');
    for (const Message& message : sent_) {
      unsigned priority = 0;
      const ssize_t n = mq_receive(from, buffer.data(), buffer.size(), &priority);
      expect_equal("the size of a message", static_cast<uint64_t>(n), message.content.size());
      expect_equal("the priority of a message", priority, message.priority);
      if (n < 0) return;
      expect_equal("the content of a message",
                   buffer.compare(0, static_cast<size_t>(n), message.content), 0);
    }
    expect_equal("one more", mq_receive(fd_, buffer.data(), buffer.size(), nullptr) < 0, true);
  }
  void remove() const { expect_call("mq_unlink", mq_unlink(name_.c_str())); }

 private:
  std::string name_;
  long most_, size_;
  mode_t mode_;
  int fd_;
  std::vector<Message> sent_;
};

void register_for(int queue, int kind, int signal) {
  sigevent event{};
  event.sigev_notify = kind, event.sigev_signo = signal;
  setup("mq_notify", mq_notify(queue, &event));
}

bool is_registered(int queue) {
  sigevent event{};
  event.sigev_notify = SIGEV_NONE;
  return mq_notify(queue, &event) < 0 && errno == EBUSY;
}

void expect_told(const sigset_t& signals, int signal) {
  const timespec patience{10, 0};
  siginfo_t info{};
  expect_equal("the signal that tells of a message",
               static_cast<uint64_t>(sigtimedwait(&signals, &info, &patience)),
               static_cast<uint64_t>(signal));
  expect_equal("what it says", static_cast<uint64_t>(info.si_code),
               static_cast<uint64_t>(SI_MESGQ));
}

void wait_until_blocked(pid_t child) {
  const std::string path = "/proc/" + std::to_string(child) + "/syscall";
  for (long number = -1; number != SYS_mq_timedreceive; target::sleep_ms(1))
    std::ifstream(path) >> number;
}

}  // namespace

int main(int argc, char** argv) {
  const bool without_content = target::has_flag(argc, argv, "--without-content");
  target::prepare_end();
  target::Family family;
  sigset_t told;
  sigemptyset(&told), sigaddset(&told, SIGUSR1);
  setup("sigprocmask", sigprocmask(SIG_BLOCK, &told, nullptr));

  Queue full("full", 10, 8192, 0640);
  full.send({{0, "first of the last"}, {kHighest, ""}, {5, noise(8192, 1)}, {5, noise(8192, 2)}});
  full.send({{0, ""}, {1, std::string(3, '\0')}, {kHighest, noise(1, 3)}, {5, "third of five"}});
  full.send({{0, "before the last"}, {0, "last"}});
  const int to_read = full.open_again(O_RDONLY), same = setup("dup", dup(full.fd()));
  Queue nameless("nameless", 3, 100, 0600);
  if (!without_content) nameless.send({{7, "without a name"}, {8, noise(100, 4)}});
  nameless.unlink();
  Queue again("nameless", 1, 1, 0600);  // by the same name
  again.send({{0, "x"}});
  Queue closed("closed", 2, 10, 0);
  closed.send({{1, "nobody"}});
  Queue told_by_signal("told", 4, 16, 0600), told_by_nothing("quiet", 4, 16, 0600),
      waited_for("waited", 4, 16, 0200);
  register_for(told_by_signal.fd(), SIGEV_SIGNAL, SIGUSR1);
  register_for(told_by_nothing.fd(), SIGEV_NONE, 0);
  const int to_wait = setup("dup", dup(waited_for.fd()));
  setup("fcntl", fcntl(to_wait, F_SETFL, 0));  // also of what it is a duplicate of

  const pid_t child = family.fork_child();
  if (child == 0) {
    family.announce_ready();
    char buffer[16];
    unsigned priority = 0;
    const ssize_t n = mq_receive(to_wait, buffer, sizeof buffer, &priority);
    expect_equal("what the child waited for", n == 4 && memcmp(buffer, "come", 4) == 0, true);
    expect_equal("its priority", priority, 9);
    family.wait_for_end_of_family();
    _exit(target::verdict());
  }
  family.wait_for_announcements(1);
  wait_until_blocked(child);
  target::OwnState state;
  state.remember();
  target::ready();
  target::wait_for_end();

  if (!target::was_restored()) state.compare();  // names of what has none differ
  full.expect_kept(true), nameless.expect_kept(false), again.expect_kept(true);
  closed.expect_kept(true), told_by_nothing.expect_kept(true);
  expect_equal("who is told of messages", is_registered(told_by_signal.fd()), true);
  expect_equal("who is registered, and told by nothing", is_registered(told_by_nothing.fd()), true);
  expect_equal("who is told of messages in another one", is_registered(again.fd()), false);
  mq_attr none{};
  expect_call("mq_getattr", mq_getattr(to_read, &none));
  expect_equal("flags of another description", none.mq_flags, 0);
  expect_equal("sending by what reads", mq_send(to_read, "", 0, 0) < 0 && errno == EBADF, true);
  full.expect_messages(to_read);
  expect_call("sending by a duplicate", mq_send(same, "more", 4, 1));
  nameless.expect_messages(nameless.fd()), again.expect_messages(again.fd());
  closed.expect_messages(closed.fd());
  told_by_signal.send({{0, "told"}});
  expect_told(told, SIGUSR1);
  waited_for.send({{9, "come"}});
  family.end();
  target::expect_success_of(child);
  for (const Queue* queue :
       {&full, &again, &closed, &told_by_signal, &told_by_nothing, &waited_for})
    queue->remove();
  return target::verdict();
}
