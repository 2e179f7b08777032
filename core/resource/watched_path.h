#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <string_view>

#include "core/linux/procfs.h"
#include "core/resource/resource.h"
#include "core/resource/restorer.h"

namespace snapgdb {

// What an inotify or fanotify watches: the kernel tells an inode and a handle (fs/notify/fdinfo.c).
struct WatchedFile {
  dev_t device = 0;
  ino_t inode = 0;
  int handle_type = 0;
  std::string handle;
};
// By the pairs of its line: "ino:3e8 sdev:800013 … fhandle-type:1 f_handle:…", in hexadecimal.
WatchedFile watched_file(const std::map<std::string_view, std::string_view>& pairs);

// A path that it has, as the process sees it; "": none was found.
std::string path_of(const ProcDirectory& proc, const WatchedFile& watched);

// How many bytes of events wait in an inotify or fanotify: they could only be read by taking them
// away, so the image lacks them.
uint32_t bytes_of_events(CaptureContext& context, const OpenDescriptor& open);

// What a descriptor watches: `path`, as who holds it sees it, or "", and what the kernel says.
struct Watched {
  const pb::Descriptor& by;
  const std::string& path;
  uint64_t inode = 0, sdev = 0;
};
// The path to watch by a restore: that one, as its holder sees it; or through a descriptor of the
// tree, where the file has no name any more. "": neither.
std::string path_to_watch(const RestoreContext& context, const Watched& watched);
// Why there will be none; "" if there will.
std::string why_not_watched(const Snapshot& snapshot, const Watched& watched);

}  // namespace snapgdb
