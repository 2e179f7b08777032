#pragma once

#include <sched.h>
#include <sys/types.h>

#include <span>

#include "core/base/fd.h"

namespace snapgdb::gdbstub {

// The client at the other end of a unix socket, which gdb's pipe is as well. Client and stub take
// turns: a stub that waits on the client's processor is woken by the client going to sleep there,
// in half the time that it takes to wake another processor.
class Neighbour {
 public:
  explicit Neighbour(int connection);

  // read(2). Outside of it this thread may run where it might before.
  ssize_t read(int fd, std::span<char> out);

 private:
  bool look_where();

  Fd stat_;  // /proc/PID/stat of the client; invalid: it is not of this machine
  cpu_set_t allowed_{}, beside_{};
  unsigned reads_ = 0;
  bool known_ = false;
};

}  // namespace snapgdb::gdbstub
