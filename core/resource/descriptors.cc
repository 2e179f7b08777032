#include <fcntl.h>

#include <algorithm>

#include "core/base/strings.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

constexpr std::string_view kDeleted = " (deleted)";

// "1: POSIX  ADVISORY  WRITE 1234 fd:00:5678 0 EOF" (fs/locks.c, lock_get_status)
void add_lock(std::string_view line, pb::Descriptor& out) {
  auto fields = split_blank(line);
  std::erase(fields, "->");  // marks one that waits
  if (fields.size() < 8) return;
  pb::FileLock& lock = *out.add_locks();
  lock.set_kind(printable(fields[1]));
  lock.set_mandatory(fields[2] == "MANDATORY");
  lock.set_exclusive(fields[3] == "WRITE");
  lock.set_owner(parse_number<int32_t>(fields[4]).value_or(0));
  lock.set_start(parse_number<uint64_t>(fields[6]).value_or(0));
  lock.set_end(parse_number<uint64_t>(fields[7]).value_or(UINT64_MAX));
}

void describe(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out) {
  const auto flags = static_cast<uint32_t>(open.info.number("flags", 8));
  out.set_number(open.number);
  out.set_close_on_exec(flags & O_CLOEXEC);
  out.set_flags(flags & ~static_cast<uint32_t>(O_CLOEXEC));
  out.set_position(open.info.number("pos"));
  out.set_mount_id(static_cast<int32_t>(open.info.number("mnt_id")));
  out.set_target(open.target);
  out.set_mode(open.status.st_mode);
  out.set_device(open.status.st_dev);
  out.set_inode(open.status.st_ino);
  out.set_size(static_cast<uint64_t>(open.status.st_size));
  out.set_description(context.descriptions.of(open.process.a_task(), open.number));
  for (const std::string_view lock : open.info.all("lock")) add_lock(lock, out);
  const auto rows = descriptor_resources();
  const auto row = std::ranges::find_if(rows, [&](const auto* r) { return r->matches(open); });
  (*row)->capture(context, open, out);
}

void capture_one(CaptureContext& context, const FrozenProcess& frozen, int number,
                 pb::Descriptor& out) {
  const ProcDirectory& proc = frozen.task_proc;
  const std::string name = std::to_string(number);
  const std::string text = proc.read(("fdinfo/" + name).c_str());
  const ProcFields info(text);
  OpenDescriptor open{.process = frozen,
                      .number = number,
                      .target = proc.link("fd/" + name),
                      .info = info,
                      .info_text = text};
  open.deleted = open.target.ends_with(kDeleted);
  if (open.deleted) open.target.resize(open.target.size() - kDeleted.size());
  if (::fstatat(proc.fd(), ("fd/" + name).c_str(), &open.status, 0) != 0)
    open.status = {};  // on a file system that does not answer; the rest is known all the same
  describe(context, open, out);
}

void capture(CaptureContext& context, const FrozenProcess& frozen, pb::Process& process) {
  process.set_descriptor_table(context.descriptor_tables.of(frozen.a_task()));
  std::vector<int> numbers;
  for (const std::string& name : frozen.task_proc.list("fd"))
    if (const auto number = parse_number<int>(name)) numbers.push_back(*number);
  std::ranges::sort(numbers);
  for (const int number : numbers) capture_one(context, frozen, number, *process.add_descriptors());
}

}  // namespace

const ProcessResource kDescriptorTable{"descriptors", capture};

}  // namespace snapgdb
