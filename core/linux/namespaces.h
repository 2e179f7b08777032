#pragma once

#include <cstdint>
#include <functional>
#include <optional>
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
// Who made a user namespace, as a user of the caller's (Linux 4.11). nullopt: nobody whom it knows.
std::optional<uint32_t> owner_user_of(const Fd& one);
// By which /proc names it.
uint64_t inode_of(const Fd& one);

// uname(2) of the caller.
struct HostNames {
  std::string host, domain;
};
HostNames host_names();
// Throws SystemError.
void name_host(const HostNames& names);

// Has whoever is born next in that pid namespace get this number, or the next that is free
// (CONFIG_CHECKPOINT_RESTORE). Takes CAP_CHECKPOINT_RESTORE in the user namespace that owns it.
// Throws SystemError.
void choose_next_number(const Fd& pids, int32_t number);

// ---- New ones, by a descriptor. `owner`: the user namespace that they belong to; not valid: the
// caller's. /proc has to show the caller. They throw SystemError.

// Not of users, pids or time. `before`: what the process that makes it does first.
Fd make_namespace(
    std::string_view kind, const Fd& owner, const std::function<void()>& before = [] {});
// Lines of uid_map and gid_map (user_namespaces(7)), in numbers of the one above.
struct UserMaps {
  std::string users, groups;
  bool deny_setgroups = false;
  uint32_t owner = 0, group = 0;  // who makes it
};
Fd make_user_namespace(const Fd& parent, const UserMaps& maps);

// In a new mount namespace, and a new pid namespace: no change of a mount leads out of it, and
// /proc shows that pid namespace.
void see_own_processes();

// What a time namespace shows beyond the clocks of the machine, ns.
struct ClockOffsets {
  int64_t monotonic = 0, boottime = 0;
};
// Whose clocks show that now (time_namespaces(7), Linux 5.6). What it is given counts from the
// clocks of the machine: `ours` are those by which the caller counts.
Fd make_time_namespace(const Fd& owner, int64_t monotonic_ns, int64_t boottime_ns,
                       const ClockOffsets& ours);
// The same for the children that the caller has from now on.
void give_children_clocks(int64_t monotonic_ns, int64_t boottime_ns, const ClockOffsets& ours);

}  // namespace snapgdb
