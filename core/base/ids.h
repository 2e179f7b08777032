#pragma once

#include <sys/types.h>

#include <compare>
#include <functional>

namespace snapgdb {

// A process (thread group) and a task (one thread, as the kernel sees it) are not interchangeable,
// though a leader's Tid has its process's number.
struct Pid {
  pid_t value = 0;
  auto operator<=>(const Pid&) const = default;
};

struct Tid {
  pid_t value = 0;
  auto operator<=>(const Tid&) const = default;
};

inline Tid leader_of(Pid pid) {
  return Tid{pid.value};
}

}  // namespace snapgdb

template <>
struct std::hash<snapgdb::Pid> {
  size_t operator()(snapgdb::Pid pid) const { return std::hash<pid_t>{}(pid.value); }
};
template <>
struct std::hash<snapgdb::Tid> {
  size_t operator()(snapgdb::Tid tid) const { return std::hash<pid_t>{}(tid.value); }
};
