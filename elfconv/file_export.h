#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/image/snapshot.h"

namespace snapgdb {

struct ExportedFiles {
  uint64_t count = 0;
  uint64_t size = 0;
  std::map<uint32_t, std::string> paths;  // by FileRecord.id, below the directory
  std::vector<std::string> missing;       // what could not be written and why, a line each
};

// Writes the files of the image below `directory` as they lay in the file system of the captured
// processes, for gdb's `set sysroot`. The names come from the image and are not trusted: nothing
// is written outside the directory, and no symbolic link in it is followed. Throws SystemError
// only if the directory itself cannot be made.
ExportedFiles export_files(const Snapshot& snapshot, const std::string& directory);

}  // namespace snapgdb
