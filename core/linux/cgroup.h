#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/ids.h"

namespace snapgdb {

// Control groups, cgroups(7): of the one hierarchy of version 2, and of those of version 1.

// A line of /proc/PID/cgroup: "4:memory:/a/b", "1:name=systemd:/", "0::/a".
struct CgroupPlace {
  std::string hierarchy;  // its controllers, as the line has them; "": version 2
  std::string path;       // below the root of our cgroup namespace
  auto operator<=>(const CgroupPlace&) const = default;
};
std::optional<CgroupPlace> cgroup_place(std::string_view line);

// Where hierarchies are mounted.
class Cgroups {
 public:
  Cgroups();

  // The directory of one; nullopt: its hierarchy, or that part of it, is not mounted.
  std::optional<std::string> directory(const CgroupPlace& place) const;
  bool is_there(const CgroupPlace& place) const;
  // Whether threads of one process may be in several below it, or it is one of those (version 2).
  bool is_threaded(const CgroupPlace& place) const;
  // The processes in it, as our pid namespace numbers them.
  std::set<Pid> members(const CgroupPlace& place) const;
  // What can be read and written, and stays as it was written.
  using Settings = std::map<std::string, std::string>;
  Settings settings(const CgroupPlace& place) const;

  // Throw SystemError. A process, or one thread of it, from wherever it is.
  void make(const CgroupPlace& place) const;
  void set(const CgroupPlace& place, const std::string& name, const std::string& value) const;
  void move(const CgroupPlace& place, Pid pid) const;
  void move(const CgroupPlace& place, Tid tid) const;

 private:
  std::string existing(const CgroupPlace& place) const;

  struct Mount {
    std::string root, point;
  };
  std::map<std::string, std::vector<Mount>> mounts_;  // by hierarchy
};

}  // namespace snapgdb
