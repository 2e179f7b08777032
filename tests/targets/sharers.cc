// Processes that share what mostly only threads do: a child with its parent's memory, one with its
// descriptors, one with both, and a grandchild that has its memory from two above.

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "target.h"

namespace {

using target::expect_equal;
using target::setup;

constexpr size_t kStack = 64 << 10;
constexpr int kNumbers = 200;  // of the descriptors that the children open at the end

int end_pipe[2], ready_pipe[2];
volatile int words[8];  // each child writes its own
volatile pid_t grandchild;

struct Role {
  int index, flags;
  bool bears;
};

int live(void* argument);

pid_t start(const Role* role) {
  char* stack = static_cast<char*>(malloc(kStack));
  return setup("clone",
               clone(live, stack + kStack, role->flags | SIGCHLD, const_cast<Role*>(role)));
}

constexpr Role kGrandchild{3, CLONE_VM, false};

// System calls only: thread-local storage is the parent's.
int live(void* argument) {
  const Role& role = *static_cast<const Role*>(argument);
  syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
  if (role.bears) grandchild = start(&kGrandchild);
  syscall(SYS_write, ready_pipe[1], "", 1);
  char byte;
  syscall(SYS_read, end_pipe[0], &byte, 1);
  words[role.index] = 100 + role.index;
  syscall(SYS_dup2, end_pipe[0], kNumbers + role.index);
  if (role.bears) syscall(SYS_wait4, grandchild, nullptr, 0, nullptr);
  _exit(40 + role.index);
}

constexpr Role kRoles[] = {
    {0, CLONE_VM, false}, {1, CLONE_FILES, false}, {2, CLONE_VM | CLONE_FILES, true}};

bool is_open(int number) {
  return fcntl(number, F_GETFD) >= 0;
}

}  // namespace

int main() {
  target::prepare_end();
  setup("pipe", pipe(end_pipe));
  setup("pipe", pipe(ready_pipe));
  pid_t children[3];
  for (const Role& role : kRoles) children[role.index] = start(&role);
  char byte;
  for (int i = 0; i < 4; ++i) setup("read", read(ready_pipe[0], &byte, 1));
  target::watch_for_sigchld(false);
  target::OwnState state;
  state.remember();
  target::ready();
  target::wait_for_end();

  state.compare();
  target::expect_no_sigchld();
  for (int i = 0; i < 4; ++i) setup("write", write(end_pipe[1], "", 1));
  for (const Role& role : kRoles) {
    int status = 0;
    expect_equal("waitpid", waitpid(children[role.index], &status, 0), children[role.index]);
    expect_equal("the status of a child", WEXITSTATUS(status), 40 + role.index);
    expect_equal("what it wrote", words[role.index], role.flags & CLONE_VM ? 100 + role.index : 0);
    expect_equal("whether what it opened is here", is_open(kNumbers + role.index),
                 (role.flags & CLONE_FILES) != 0);
  }
  expect_equal("what the grandchild wrote", words[3], 103);
  expect_equal("whether what it opened is here", is_open(kNumbers + 3), false);
  target::expect_no_children();
  return target::verdict();
}
