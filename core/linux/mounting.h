#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>

namespace snapgdb {

// Where mounts are built until they are where they shall be, by who has a mount namespace of its
// own: there is such a directory on every system, and nothing in it that is needed meanwhile.
inline const std::string kStage = "/proc";

// All throw SystemError.
void mount_at(const std::string& target, const char* type, uint64_t flags,
              const std::string& options = "");
void make_directory(const std::string& path);  // unless it is there
// Owners that the user namespace does not know cannot be given; the mode alone has to do then.
void imitate_attributes(const struct stat& of, const std::string& path);
// What is mounted there, with all that is mounted below it, cannot be written to any more.
void make_unchanging(const std::string& path);

}  // namespace snapgdb
