#include "core/linux/child.h"

#include <errno.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace snapgdb {

pid_t clone3(const CloneArguments& arguments) {
  return static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof arguments));
}

int wait_for(pid_t child) {
  int status = -1;
  while (::waitpid(child, &status, __WALL) < 0)
    if (errno != EINTR) return -1;
  return status;
}

}  // namespace snapgdb
