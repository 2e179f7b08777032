#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace snapgdb {

// A line of /proc/PID/mountinfo, proc(5).
struct MountInfo {
  int id = 0, parent = 0;
  uint64_t device = 0;
  std::string root, point;  // in the file system; in the mount namespace
  uint64_t attributes = 0;  // MOUNT_ATTR_*
  uint32_t shared = 0, master = 0;
  bool unbindable = false;
  std::string type, source, options;  // of the file system
};
// As they can be mounted: parents before what is mounted on them, and that before what hides it.
std::vector<MountInfo> parse_mount_info(std::string_view text);

// Whether `path` is `directory`, or below it; both without a slash at the end, but for "/".
bool is_at_or_below(std::string_view path, std::string_view directory);
// What comes behind `directory`: "", or "/a/b". Precondition: is_at_or_below().
std::string_view below(std::string_view path, std::string_view directory);
// The other way round: "/" and "/a" make "/a".
std::string joined(std::string_view directory, std::string_view rest);

// Whether the mount is the uppermost at its place, so that its point leads to it.
bool is_on_top(const std::vector<MountInfo>& mounts, const MountInfo& mount);
// The mount that a path leads to.
const MountInfo* mount_at(const std::vector<MountInfo>& mounts, std::string_view path);

}  // namespace snapgdb
