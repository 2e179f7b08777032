#include "core/linux/option_guard.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "core/base/error.h"

namespace snapgdb {

struct OptionGuard::Shared {
  static constexpr size_t kStackSize = 32 * 1024;

  Change changes[kMaxChanges];
  std::atomic<size_t> count = 0;
  int parent = -1;  // a pidfd of ours
  pid_t child = -1;
  alignas(64) std::byte stack[kStackSize];

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
    pollfd parent{shared.parent, POLLIN, 0};
    while (::poll(&parent, 1, -1) < 0) {
    }
    shared.undo();
    ::_exit(0);
  }
};

OptionGuard::OptionGuard() : shared_(std::make_unique<Shared>()) {
  shared_->parent = static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0));
  if (shared_->parent < 0) throw_errno("cannot hold our own process by a descriptor");
  // With signals blocked: those of the terminal are for us.
  sigset_t all, before;
  sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, &before);
  shared_->child = ::clone(Shared::watch, shared_->stack + Shared::kStackSize,
                           CLONE_VM | CLONE_FILES, shared_.get());
  const int error = errno;
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  if (shared_->child < 0) {
    ::close(shared_->parent);
    errno = error;
    throw_errno("cannot start a process");
  }
}

OptionGuard::~OptionGuard() {
  ::kill(shared_->child, SIGKILL);
  ::waitpid(shared_->child, nullptr, __WALL);
  ::close(shared_->parent);
}

OptionGuard::Scope::Scope(OptionGuard& guard, const Change* changes, size_t count) : guard_(guard) {
  std::copy_n(changes, count, guard.shared_->changes);
  guard.shared_->count = count;
}

OptionGuard::Scope::~Scope() {
  guard_.shared_->undo();
}

}  // namespace snapgdb
