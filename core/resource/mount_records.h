#pragma once

#include <string>
#include <string_view>

namespace snapgdb {

// What the records of mounts say; for their capture, and the plan of a restore.

enum class FileSystemKind {
  kMemory,  // what it holds is in the image
  kKernel,  // holds what the kernel shows
  kLayers,  // holds nothing itself: its layers are directories
  kOther    // nobody can tell what it holds, if it is not mounted outside
};

FileSystemKind kind_of(std::string_view type);

// How the root of a mount ends whose directory has been removed (proc_pid_mountinfo(5)).
constexpr std::string_view kRemovedRoot = "//deleted";

// To the root directory.
inline std::string relative(const std::string& path) {
  return path == "/" ? "." : path.substr(1);
}

}  // namespace snapgdb
