#include "core/linux/option_guard.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "core/base/error.h"
#include "core/linux/child.h"

namespace snapgdb {

struct OptionGuard::Shared {
  static constexpr size_t kStackSize = 32 * 1024;

  Change changes[kMaxChanges];
  std::atomic<size_t> count = 0;
  const Fd parent;  // ourselves, by a pidfd
  pid_t child = -1;
  alignas(64) std::byte stack[kStackSize];

  Shared() : parent(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0))) {
    if (!parent.valid()) throw_errno("cannot hold our own process by a descriptor");
    // With signals blocked: those of the terminal are for us.
    sigset_t all, before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    child = ::clone(watch, stack + kStackSize, CLONE_VM | CLONE_FILES, this);
    const int error = errno;
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (child >= 0) return;
    errno = error;
    throw_errno("cannot start a process");
  }
  ~Shared() {
    ::kill(child, SIGKILL);
    wait_for(child);
  }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;

  void undo() {
    for (size_t i = 0, n = count; i < n; ++i)
      ::setsockopt(changes[i].socket, changes[i].level, changes[i].name, &changes[i].value,
                   sizeof changes[i].value);
    count = 0;
  }

  // Makes system calls and nothing else: it has our memory, and locks may be held in it.
  static int watch(void* argument) {
    Shared& shared = *static_cast<Shared*>(argument);
    ::setsid();  // who kills our process group does not kill this
    pollfd parent{shared.parent.get(), POLLIN, 0};
    while (::poll(&parent, 1, -1) < 0) {
    }
    shared.undo();
    ::_exit(0);
  }
};

OptionGuard::OptionGuard() = default;
OptionGuard::~OptionGuard() = default;

OptionGuard::Shared& OptionGuard::shared() {
  if (!shared_) shared_ = std::make_unique<Shared>();
  return *shared_;
}

OptionGuard::Scope::Scope(OptionGuard& guard, const Change* changes, size_t count)
    : lock_(guard.mutex_), shared_(guard.shared()) {
  std::copy_n(changes, count, shared_.changes);
  shared_.count = count;
}

OptionGuard::Scope::~Scope() {
  shared_.undo();
}

OptionGuard::Change peek_offset_of(const Fd& socket) {
  int offset = -1;
  socklen_t size = sizeof offset;
  ::getsockopt(socket.get(), SOL_SOCKET, SO_PEEK_OFF, &offset, &size);
  return {socket.get(), SOL_SOCKET, SO_PEEK_OFF, offset};
}

}  // namespace snapgdb
