#pragma once

#include <sys/stat.h>

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "core/base/fd.h"
#include "core/image/extents.h"
#include "core/image/image_writer.h"
#include "core/image/page_writer.h"
#include "core/image/snapshot.pb.h"
#include "core/linux/procfs.h"

namespace snapgdb {

// The files that the mappings of a tree refer to. While the tree is stopped they are only opened;
// their contents are written when it runs again. One registry serves every snapshot of an image,
// so that each file is in it once.
class FileRegistry {
 public:
  // Files may have changed since the last one.
  void begin_snapshot();
  // The id of the file behind a mapping; 0 if its content must be taken now instead: it is out of
  // our reach, not a regular file, or lives in memory only. May be called by several threads.
  uint32_t id_for(const ProcDirectory& proc, const ProcMapping& mapping);

  // For a file that somebody else describes and writes.
  uint32_t reserve_id() {
    const std::lock_guard lock(mutex_);
    entries_.emplace_back();
    return static_cast<uint32_t>(entries_.size());
  }

  size_t size() const { return entries_.size(); }
  const pb::FileRecord& record(uint32_t id) const {
    const std::lock_guard lock(mutex_);
    return entries_.at(id - 1).record;
  }
  void set_executable(uint32_t id) {
    const std::lock_guard lock(mutex_);
    entries_.at(id - 1).record.set_role(pb::FILE_EXECUTABLE);
  }

  // The files registered since the last ones were written: finds the separate debug files that go
  // with them, and tells how much there will be to read.
  void expect_new_files(PageWriter& pages);
  // Writes them. A file that changed meanwhile is named in `missing`.
  void write_new_files(ImageWriter& image, PageWriter& pages, std::vector<pb::Missing>& missing);

 private:
  using Key = std::tuple<uint32_t, uint32_t, uint64_t>;  // device, inode
  struct Entry {
    pb::FileRecord record;
    Fd fd;
    std::shared_ptr<const Fd> root;  // of the process: where its debug files are looked for
    bool elf = false;
  };

  Entry describe(Fd fd, const ProcDirectory& proc, std::string path);
  void write(Entry& entry, ImageWriter& image, PageWriter& pages,
             std::vector<pb::Missing>& missing);
  void add_debug_file(const Entry& of);
  // The first one that is there. False: none is.
  bool add_debug_file(const Entry& of, const std::vector<std::string>& places);
  void add_debug_file(const Entry& of, const std::string& path, Fd fd, const struct stat& status);

  mutable std::mutex mutex_;  // while files are registered
  std::map<Key, uint32_t> ids_;
  std::set<Key> looked_at_;          // of this snapshot
  std::set<std::string> debug_ids_;  // build-ids whose debug file is registered
  std::deque<Entry> entries_;        // id - 1; stay where they are
  size_t written_ = 0;
};

}  // namespace snapgdb
