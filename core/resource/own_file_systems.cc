#include "core/resource/own_file_systems.h"

#include <algorithm>
#include <set>
#include <string>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/mount_info.h"

namespace snapgdb {
namespace {

// A process may end at any time: what is gone has nothing open.
bool serves(const ProcDirectory& proc) try {
  return std::ranges::any_of(proc.list("fd"), [&](const std::string& name) {
    return proc.link_if_allowed("fd/" + name) == "/dev/fuse";
  });
} catch (const SystemError&) {
  return false;
}

// fuse, fuseblk, fuse.sshfs; but not fusectl, which is the kernel's.
bool is_served(const MountInfo& mount) {
  return mount.type == "fuse" || mount.type == "fuseblk" || mount.type.starts_with("fuse.");
}

class Served {
 public:
  explicit Served(const ProcDirectory& proc)
      : proc_(proc), mounts_(parse_mount_info(proc.read("mountinfo"))) {}

  // What of such a file system the process has; "" if nothing. None of this asks the server.
  std::string what() const {
    if (std::ranges::none_of(mounts_, is_served)) return "";
    for (const char* name : {"cwd", "root", "exe"})
      if (const std::string target = proc_.link_if_allowed(name).value_or(""); leads_there(target))
        return target;
    for (const std::string& name : proc_.list("fd")) {
      const ProcFields info(proc_.read_if_allowed(("fdinfo/" + name).c_str()).value_or(""));
      const auto mount = static_cast<int>(info.number("mnt_id"));
      if (std::ranges::any_of(
              mounts_, [&](const MountInfo& one) { return one.id == mount && is_served(one); }))
        return proc_.link_if_allowed("fd/" + name).value_or("descriptor " + name);
    }
    for (const ProcMapping& mapping : parse_mappings(proc_.read_if_allowed("maps").value_or("")))
      if (mapping.inode && leads_there(mapping.name)) return mapping.name;
    return "";
  }

 private:
  bool leads_there(const std::string& path) const {
    const MountInfo* mount = path.starts_with('/') ? mount_at(mounts_, path) : nullptr;
    return mount && is_served(*mount);
  }

  const ProcDirectory& proc_;
  const std::vector<MountInfo> mounts_;
};

std::string what_is_served_of(const ProcDirectory& proc) try {
  return Served(proc).what();
} catch (const SystemError&) {
  return "";
}

// Hardly ever: and it is much sooner told than what all of them have open.
bool sees_served(const ProcDirectory& proc, std::set<std::string>& known_spaces) try {
  const auto space = proc.link_if_allowed("ns/mnt");
  return space && known_spaces.insert(*space).second &&
         std::ranges::any_of(parse_mount_info(proc.read("mountinfo")), is_served);
} catch (const SystemError&) {
  return false;
}

}  // namespace

void refuse_own_file_systems(const std::vector<Pid>& processes) {
  std::set<std::string> known_spaces;
  const bool is_any_there = std::ranges::any_of(processes, [&](Pid pid) {
    const auto proc = ProcDirectory::of_if_alive(pid);
    return proc && sees_served(*proc, known_spaces);
  });
  if (!is_any_there) return;
  const auto server = std::ranges::find_if(processes, [](Pid pid) {
    const auto proc = ProcDirectory::of_if_alive(pid);
    return proc && serves(*proc);
  });
  if (server == processes.end()) return;
  for (const Pid pid : processes) {
    const auto proc = ProcDirectory::of_if_alive(pid);
    const std::string what = proc ? what_is_served_of(*proc) : "";
    if (!what.empty())
      throw Error(
          fmt::format("cannot capture process {}", pid.value),
          fmt::format("it has {} open, of a file system in user space, and process {} of its "
                      "tree serves one: stopped, it would not answer",
                      printable(what), server->value),
          "capture a process below which there is no such server");
  }
}

}  // namespace snapgdb
