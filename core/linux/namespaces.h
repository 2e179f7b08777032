#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "core/base/fd.h"

namespace snapgdb {

// A namespace of that kind (CLONE_NEW…). An ordinary user enters those of their own containers as
// root of the user namespace that these belong to. False: errno says why not. Only a process of a
// single thread may change its user namespace; it makes system calls and nothing else.
bool enter_namespace(const Fd& one, int kind);

// Does some work in a namespace: by a child with our memory and descriptors, which may change its
// user namespace, as a thread may not. What the work throws is thrown here; SystemError: the
// namespace cannot be entered. `name`: "ipc", …
void in_namespace(const Fd& one, std::string_view name, const std::function<void()>& work);

// CLONE_NEW… of a kind as /proc/PID/ns calls it; 0: none.
int namespace_flag(std::string_view kind);

// The user namespace to which that one belongs, or the parent of a user or pid namespace. Not
// valid: it is out of our sight, or there is none (ioctl_ns(2)).
Fd owner_of(const Fd& one);
Fd parent_of(const Fd& one);
// By which /proc names it.
uint64_t inode_of(const Fd& one);

// uname(2) of the caller.
struct HostNames {
  std::string host, domain;
};
HostNames host_names();

}  // namespace snapgdb
