#include "core/base/strings.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

bool matches(const OpenDescriptor& open) {
  return open.target == "anon_inode:[eventpoll]";
}

// One line a target: "tfd:  5 events:  19 data: 5  pos:0 ino:1234 sdev:8"; all but tfd and pos in
// hexadecimal (fs/eventpoll.c, ep_show_fdinfo).
void capture(CaptureContext&, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::Epoll& epoll = *out.mutable_epoll();
  for (const std::string_view line : split(open.info_text, '\n')) {
    if (!line.starts_with("tfd:")) continue;
    const auto pairs = key_value_pairs(line);
    pb::Epoll::Target& target = *epoll.add_targets();
    target.set_fd(static_cast<int32_t>(pair_number(pairs, "tfd")));
    target.set_events(static_cast<uint32_t>(pair_number(pairs, "events", 16)));
    target.set_data(pair_number(pairs, "data", 16));
    target.set_inode(pair_number(pairs, "ino", 16));
  }
}

}  // namespace

const DescriptorResource kEpoll{"epoll", matches, capture};

}  // namespace snapgdb
