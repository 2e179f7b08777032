// A parent in vfork(2), whose child says "ready" and neither execs nor exits before the end.

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "target.h"

int main() {
  const pid_t child = vfork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    target::ready();
    char byte;
    while (read(STDIN_FILENO, &byte, 1) == 1) {
    }
    _exit(7);
  }
  int status = 0;
  target::expect_equal("waitpid", target::expect_call("waitpid", waitpid(child, &status, 0)),
                       child);
  target::expect_equal("the child's status", status, 7 << 8);
  target::expect_no_children();
  return target::verdict();
}
