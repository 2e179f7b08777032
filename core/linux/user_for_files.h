#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace snapgdb {

// Of this thread, while it lives: by whose rights it looks for files and keys (setfsuid(2)). Root
// only; others stay who they are.
class UserForFiles {
 public:
  UserForFiles(uint32_t user, uint32_t group)
      : group_(::syscall(SYS_setfsgid, group)), user_(::syscall(SYS_setfsuid, user)) {}
  ~UserForFiles() {
    ::syscall(SYS_setfsuid, user_);
    ::syscall(SYS_setfsgid, group_);
  }
  UserForFiles(const UserForFiles&) = delete;
  UserForFiles& operator=(const UserForFiles&) = delete;

 private:
  long group_, user_;  // before
};

}  // namespace snapgdb
