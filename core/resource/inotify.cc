#include "core/base/strings.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

constexpr std::string_view kPrefix = "inotify ";

// The link has no brackets, unlike those of the other kinds.
bool matches(const OpenDescriptor& open) {
  return open.target == "anon_inode:inotify";
}

// "inotify wd:1 ino:3e8 sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1
// f_handle:…", all in hexadecimal (fs/notify/fdinfo.c).
void capture(CaptureContext&, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::Inotify& inotify = *out.mutable_inotify();
  for (const std::string_view line : split(open.info_text, '\n')) {
    if (!line.starts_with(kPrefix)) continue;
    const auto pairs = key_value_pairs(line.substr(kPrefix.size()));
    pb::Inotify::Watch& watch = *inotify.add_watches();
    watch.set_number(static_cast<int32_t>(pair_number(pairs, "wd", 16)));
    watch.set_inode(pair_number(pairs, "ino", 16));
    watch.set_device(pair_number(pairs, "sdev", 16));
    watch.set_mask(static_cast<uint32_t>(pair_number(pairs, "mask", 16)));
    if (const auto handle = pairs.find("f_handle"); handle != pairs.end())
      watch.set_file_handle(from_hex(handle->second).value_or(""));
  }
}

}  // namespace

const DescriptorResource kInotify{"inotify", matches, capture};

}  // namespace snapgdb
