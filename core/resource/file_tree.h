#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/image/snapshot.h"
#include "core/resource/user_numbers.h"

namespace snapgdb {

class NamelessFiles;

// What a file system in memory holds, while the tree is stopped: from `directory` on, which is
// `root` there ("/", "/a"), or is a file itself; not what is mounted in it. Adds to `out`, with all
// that leads to `root`; what is there already is passed over. Throws Error: it is not all there.
void capture_file_tree(NamelessFiles& files, const Fd& directory, const std::string& root,
                       pb::FileSystem& out);

// Makes it again, in an empty one. Returns what is otherwise than it was. Throws Error.
std::vector<std::string> restore_file_tree(const Snapshot& snapshot, const pb::FileSystem& system,
                                           const UserNumbers& numbers, const Fd& root);

// nullptr: there is no such file.
const pb::FileEntry* entry_at(const pb::FileSystem& system, const std::string& path);

}  // namespace snapgdb
