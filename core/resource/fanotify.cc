#include <fcntl.h>
#include <sys/fanotify.h>
#include <unistd.h>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/device_number.h"
#include "core/resource/resources.h"
#include "core/resource/watched_path.h"

namespace snapgdb {
namespace {

constexpr std::string_view kPrefix = "fanotify ";
// Fanotify.Mark.kind
constexpr uint32_t kInode = 0, kMount = 1, kFileSystem = 2;
// Of newer kernels than the headers (include/uapi/linux/fanotify.h).
constexpr uint32_t kEvictable = 0x200, kIgnore = 0x400;

bool matches(const OpenDescriptor& open) {
  return open.target == "anon_inode:[fanotify]";
}

// ---- Capture ------------------------------------------------------------------------------------

// The mount point of a mount, or any one of a file system; "": the process sees none. `is_it` is
// given the fields of proc_pid_mountinfo(5).
std::string mount_point(const ProcDirectory& proc, const auto& is_it) {
  const std::string mounts = proc.read_if_allowed("mountinfo").value_or("");
  for (const std::string_view line : split(mounts, '\n')) {
    const auto fields = split_blank(line);
    if (fields.size() >= 5 && is_it(fields)) return std::string(fields[4]);
  }
  return "";
}

std::string mount_point(const ProcDirectory& proc, const pb::Fanotify::Mark& mark) {
  if (mark.kind() == kMount)
    return mount_point(
        proc, [&](const auto& fields) { return fields[0] == std::to_string(mark.mount_id()); });
  const dev_t device = device_of(mark.device());
  const std::string numbers = fmt::format("{}:{}", major_of(device), minor_of(device));
  return mount_point(proc, [&](const auto& fields) { return fields[2] == numbers; });
}

// "fanotify ino:3e8 sdev:800013 mflags:0 mask:3b ignored_mask:40000000 fhandle-bytes:8 …",
// "fanotify mnt_id:12 …", "fanotify sdev:800013 …", all in hexadecimal.
void add_mark(const OpenDescriptor& open, std::string_view line, pb::Fanotify& out) {
  const auto pairs = key_value_pairs(line);
  const ProcDirectory& proc = open.process.task_proc;
  pb::Fanotify::Mark& mark = *out.add_marks();
  mark.set_kind(pairs.contains("ino") ? kInode : pairs.contains("mnt_id") ? kMount : kFileSystem);
  mark.set_inode(pair_number(pairs, "ino", 16));
  mark.set_device(pair_number(pairs, "sdev", 16));
  mark.set_mount_id(static_cast<int32_t>(pair_number(pairs, "mnt_id", 16)));
  mark.set_mask(pair_number(pairs, "mask", 16));
  mark.set_ignored_mask(pair_number(pairs, "ignored_mask", 16));
  mark.set_flags(static_cast<uint32_t>(pair_number(pairs, "mflags", 16)));
  if (mark.kind() != kInode) return mark.set_path(mount_point(proc, mark));
  const WatchedFile watched = watched_file(pairs);
  mark.set_file_handle(watched.handle);
  mark.set_path(path_of(proc, watched));
}

// First "fanotify flags:6 event-flags:8002", then the marks.
void capture(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::Fanotify& group = *out.mutable_fanotify();
  for (std::string_view line : split(open.info_text, '\n')) {
    if (!line.starts_with(kPrefix)) continue;
    line.remove_prefix(kPrefix.size());
    if (!line.starts_with("flags:")) {
      add_mark(open, line, group);
      continue;
    }
    const auto pairs = key_value_pairs(line);
    group.set_flags(static_cast<uint32_t>(pair_number(pairs, "flags", 16)));
    group.set_event_flags(static_cast<uint32_t>(pair_number(pairs, "event-flags", 16)));
  }
  group.set_unread(bytes_of_events(context, open));
}

// ---- Restoring ----------------------------------------------------------------------------------

uint32_t flags_to_make(const pb::Descriptor& descriptor) {
  const uint32_t flags = descriptor.fanotify().flags() & ~uint32_t{FAN_NONBLOCK};
  return flags | FAN_CLOEXEC | (descriptor.flags() & O_NONBLOCK ? FAN_NONBLOCK : 0);
}

std::string obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const pb::Fanotify& group = descriptor.fanotify();
  const Fd trial(::fanotify_init(flags_to_make(descriptor), group.event_flags()));
  if (!trial.valid()) return "cannot make a fanotify: " + errno_text(errno);
  for (const pb::Fanotify::Mark& mark : group.marks()) {
    const std::string why =
        mark.kind() != kInode && mark.path().empty()
            ? "the program did not see its mount"
            : why_not_watched(snapshot, {descriptor, mark.path(), mark.inode(), mark.device()});
    if (!why.empty()) return "what it watches: " + why;
  }
  return "";
}

// The rights of a user namespace may not be enough.
Fd open(OpeningContext& context, const pb::Descriptor& descriptor) {
  Fd fd(::fanotify_init(flags_to_make(descriptor), descriptor.fanotify().event_flags()));
  if (fd.valid()) return fd;
  if (!context.plan.isolated) throw_errno("cannot make a fanotify");
  context.notes.push_back(fmt::format("{}, {}, fails as a lost connection would: {}",
                                      called(descriptor), printable(descriptor.target()),
                                      errno_text(errno)));
  return lost_connection();
}

bool add(const Fd& fd, const pb::Fanotify::Mark& mark, const std::string& path, uint32_t flags,
         uint64_t mask) {
  constexpr uint32_t kKinds[] = {FAN_MARK_INODE, FAN_MARK_MOUNT, FAN_MARK_FILESYSTEM};
  return mask == 0 ||
         ::fanotify_mark(fd.get(), FAN_MARK_ADD | kKinds[mark.kind() % std::size(kKinds)] | flags,
                         mask, AT_FDCWD, path.c_str()) == 0;
}

// When all files are open: that, too, would be told of.
void watch(RestoreContext& context, const pb::Descriptor& descriptor, const Fd& fd) {
  const pb::Fanotify& group = descriptor.fanotify();
  for (const pb::Fanotify::Mark& mark : group.marks()) {
    const std::string path =
        path_to_watch(context, {descriptor, mark.path(), mark.inode(), mark.device()});
    const uint32_t kept = mark.flags() & kEvictable,
                   ignoring = mark.flags() & kIgnore ? kIgnore : uint32_t{FAN_MARK_IGNORED_MASK},
                   surviving = mark.flags() & FAN_MARK_IGNORED_SURV_MODIFY;
    if (!add(fd, mark, path, kept, mark.mask()) ||
        !add(fd, mark, path, kept | ignoring | surviving, mark.ignored_mask()))
      context.notes.push_back(fmt::format("{}: {} is not watched any more: {}", called(descriptor),
                                          printable(mark.path()), errno_text(errno)));
  }
  if (group.unread())
    context.notes.push_back(fmt::format("{}: {} bytes of events that nobody had read are lost",
                                        called(descriptor), group.unread()));
}

}  // namespace

const DescriptorRestorer kFanotifyRestorer{
    .kind = pb::Descriptor::kFanotify, .obstacle = obstacle, .open = open, .start = watch};
const DescriptorResource kFanotify{"fanotify", matches, capture};

}  // namespace snapgdb
