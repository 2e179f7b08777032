#pragma once

#include <sys/stat.h>

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/fd.h"
#include "core/image/image_writer.h"
#include "core/image/page_writer.h"
#include "core/image/snapshot.h"
#include "core/linux/procfs.h"
#include "core/resource/file_registry.h"

namespace snapgdb {

class Stash;
struct MemoryOptions;

// Files without a name: removed ones that are still open or mapped, and memfds. Nobody but those
// who hold them has their content, so it goes into the image, as it was at the stop. Of one
// snapshot.
class NamelessFiles {
 public:
  explicit NamelessFiles(FileRegistry& files) : files_(files) {}

  // The id of its record; 0: it has a name, or no content of its own. `path`: as /proc shows it,
  // without " (deleted)". May be called by several threads.
  uint32_t id_for(const Fd& file, const std::string& path);
  // The id of what has no file that could be kept: `copy` is its content, and ours.
  uint32_t id_for_copy(Fd copy, const std::string& path);

  // The id of one that has a name, but in a file system that goes with the tree.
  uint32_t id_for_named(Fd file, const std::string& path);

  // While the tree is stopped, and after its memory was secured: what may change is read into the
  // stash. Files whose content is that of mappings as a whole are forgotten again.
  void secure(std::vector<pb::Process>& processes, const MemoryOptions& options, Stash& stash);
  // While the tree is stopped: what may change and did not fit.
  void copy_what_changes(const Stash& stash, PageWriter& pages);
  // When it runs again.
  void write(const Stash& stash, ImageWriter& image, PageWriter& pages,
             std::vector<pb::Missing>& missing);

 private:
  struct Run {
    uint64_t start = 0, end = 0;
    bool has_data = false;
    uint64_t in_stash = 0;
  };
  struct Entry {
    pb::FileRecord record;
    Fd fd;
    timespec changed{};  // st_ctim
    enum class When { kForgotten, kStashed, kStopped, kLater } when = When::kLater;
    bool is_ours = false, is_named = false;
    std::string lost = {};  // why its content is
    std::vector<Run> runs = {};
    std::optional<Extents> content = {};
  };
  // What the tree does with one of them.
  struct Use {
    std::map<uint64_t, uint64_t> shown;  // by shared mappings: ends by starts
    bool is_used = false, is_open = false, may_change = false, is_written_as_memory = false,
         kept_out = false;
  };

  Entry& add(uint32_t id, Fd file, const struct stat& status, const std::string& path);
  std::map<uint32_t, Use> uses_in(std::vector<pb::Process>& processes,
                                  const MemoryOptions& options);
  void find_ids(pb::Process& process) const;
  static bool is_shown_as_a_whole(const Entry& entry, const Use& use);
  void secure(Entry& entry, const Use& use, Stash& stash, uint64_t& left_to_copy);
  static void find_runs(Entry& entry);
  static void copy(Entry& entry, const Stash& stash, PageWriter& pages);

  FileRegistry& files_;
  std::mutex mutex_;
  std::map<uint32_t, Entry> entries_;                           // by id
  std::map<std::pair<uint64_t, uint64_t>, uint32_t> by_inode_;  // and device
};

// MAP_SHARED | MAP_ANONYMOUS: whole in the mappings, unless it was opened through
// /proc/PID/map_files. System V shared memory: system_v.cc sees to it.
bool is_only_mapped(std::string_view path);

// Of a file whose name is gone: another one, as the process sees it; in the same directory, or
// where a short search finds it.
std::optional<std::string> other_name_of(const ProcDirectory& proc, const struct stat& status,
                                         const std::string& path);

// Restoring: an empty one that shows itself as `path` where that is free, and under a name of the
// file system's choice in the same directory otherwise; a memfd, if that is not to be had either.
Fd make_nameless(const std::string& path, uint64_t huge_page_size = 0);
// With size and content.
Fd make_nameless(const Snapshot& snapshot, const pb::FileRecord& file);
// Gives an empty file its size and its content, with the holes that it had. Throws Error where the
// image has lost some of it.
void fill_from_image(const Fd& fd, const Snapshot& snapshot, const pb::FileRecord& file);

}  // namespace snapgdb
