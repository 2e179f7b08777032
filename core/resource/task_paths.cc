#include "core/resource/task_paths.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/resource/mounts.h"
#include "core/resource/namespaces.h"
#include "core/resource/resources.h"
#include "core/resource/spaces.h"

namespace snapgdb {
namespace {

// Whom a /proc means by a number: that of a container by those that it has inside.
const pb::Process* process_called(const Snapshot& snapshot, int32_t number) {
  for (const pb::Process& process : snapshot.processes())
    if (tree_number(snapshot, process) == number) return &process;
  return snapshot.process(number);
}

bool is_thread(const Snapshot& snapshot, int32_t number) {
  return std::ranges::any_of(snapshot.processes(), [&](const pb::Process& process) {
    return std::ranges::any_of(process.threads(), [&](const pb::Thread& thread) {
      return thread.tid() == number || tree_number(snapshot, thread) == number;
    });
  });
}

// 12, of "/proc/12/maps", and where that ends.
constexpr std::string_view kProc = "/proc/";
size_t end_of_name(std::string_view path, size_t begin) {
  return std::min(path.find('/', begin), path.size());
}
size_t end_of_task_in(std::string_view path) {
  return end_of_name(path, kProc.size());
}
std::optional<int32_t> task_in(std::string_view path) {
  if (!path.starts_with(kProc)) return std::nullopt;
  return parse_number<int32_t>(path.substr(kProc.size(), end_of_task_in(path) - kProc.size()));
}

// "/proc/12/maps", of a task of the tree, with the number that it has there; "" if it is no such
// path.
std::string path_of_task(const Snapshot& snapshot, const std::string& path) {
  const auto number = task_in(path);
  const pb::Process* process = number ? process_called(snapshot, *number) : nullptr;
  if (!process) return "";
  return fmt::format("/proc/{}{}", tree_number(snapshot, *process),
                     path.substr(end_of_task_in(path)));
}

// "/maps" of "/proc/12/maps", where no such task is there any more: it has ended. nullopt: it is
// something else.
std::optional<std::string> rest_of_ended(const Snapshot& snapshot,
                                         const pb::Descriptor& descriptor) {
  const std::string& path = descriptor.target();
  const auto number = task_in(path);
  struct stat status {};
  if (!number || process_called(snapshot, *number) || is_thread(snapshot, *number))
    return std::nullopt;
  // In a pid namespace of the tree's own there are no others; in ours, it may be anybody's.
  const bool is_ours = namespace_in(snapshot.root().namespaces(), "pid") ==
                       namespace_in(snapshot.record().namespaces(), "pid");
  if (is_ours && stat_for_tree(mounts_of(snapshot, descriptor), path, status) == 0)
    return std::nullopt;
  return path.substr(end_of_task_in(path));
}

// Who is in the namespace that this names: "net:[4026531840]"; nullptr: nobody is, or it is
// something else.
const pb::Process* process_in(const Snapshot& snapshot, std::string_view target) {
  const size_t colon = target.find(":[");
  if (colon == std::string_view::npos || !target.ends_with(']')) return nullptr;
  const std::string_view number = target.substr(colon + 2, target.size() - colon - 3);
  const uint64_t inode = parse_number<uint64_t>(number).value_or(0);
  return inode ? member_of(snapshot, target.substr(0, colon), inode) : nullptr;
}

// What only a task of the tree can open; "" for everything else.
std::string late_path(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  if (is_below(snapshot, mounts_of(snapshot, descriptor)))
    return descriptor.file().unlinked() ? "" : descriptor.target();
  if (rest_of_ended(snapshot, descriptor)) return descriptor.target();
  return path_of_task(snapshot, descriptor.target());
}

Fd open_by(LateOpening& opening, const std::string& path, const pb::Descriptor& descriptor) {
  constexpr uint32_t kAtFdcwd = static_cast<uint32_t>(AT_FDCWD);
  return opening.take(
      "open " + path, SYS_openat,
      {kAtFdcwd, opening.opener.put(path), descriptor.flags() | O_CLOEXEC | O_NOCTTY});
}

constexpr std::string_view kTask = "/task/";

// Of one that is there for that moment.
Fd open_of_ended(LateOpening& opening, const std::string& rest, const pb::Descriptor& descriptor) {
  Seed child = opening.opener.clone("make a process for a moment", 0, 0);
  const int64_t number = child.call("ask for its number", SYS_getpid);
  const bool is_of_thread = rest.starts_with(kTask);  // of which it has one
  const size_t end = is_of_thread ? end_of_name(rest, kTask.size()) : 0;
  const std::string task = is_of_thread ? fmt::format("{}{}", kTask, number) : "";
  Fd fd = open_by(opening, fmt::format("/proc/{}{}{}", number, task, rest.substr(end)), descriptor);
  child.end(0);
  opening.opener.call("reap a process that was there for a moment", SYS_wait4,
                      {static_cast<uint64_t>(number), 0, __WALL, 0});
  return fd;
}

// By us: who is in it may have no number where it is held open.
Fd open_namespace(const LateOpening& opening, const pb::Process& member,
                  const pb::Descriptor& descriptor) {
  const std::string& target = descriptor.target();
  const std::string path =
      fmt::format("/proc/{}/ns/{}", opening.context.seed_of(member).tid().value,
                  target.substr(0, target.find(':')));
  Fd fd(::open(path.c_str(), static_cast<int>(descriptor.flags()) | O_CLOEXEC));
  if (!fd.valid()) throw_errno("cannot open {}, which is held open", path);
  return fd;
}

}  // namespace

bool leads_to_tasks(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  return process_in(snapshot, descriptor.target()) || !late_path(snapshot, descriptor).empty();
}

Fd open_proc_late(LateOpening& opening, const pb::Descriptor& descriptor) {
  const Snapshot& snapshot = opening.context.snapshot;
  if (const pb::Process* member = process_in(snapshot, descriptor.target()))
    return open_namespace(opening, *member, descriptor);
  if (const auto rest = rest_of_ended(snapshot, descriptor))
    return open_of_ended(opening, *rest, descriptor);  // where reading finds nothing
  const std::string path = late_path(snapshot, descriptor);
  if (path.empty()) return Fd();
  Fd fd = open_by(opening, path, descriptor);
  if (descriptor.position()) go_to_position(fd, descriptor);
  return fd;
}

Fd open_unless_late(OpeningContext& context, const pb::Descriptor& descriptor,
                    Fd (*open)(OpeningContext&, const pb::Descriptor&)) {
  if (!leads_to_tasks(context.snapshot, descriptor)) return open(context, descriptor);
  Fd fd(::open("/", O_PATH | O_CLOEXEC));
  if (!fd.valid()) throw_errno("cannot open /");
  return fd;
}

bool is_opened_late(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const bool has_path = descriptor.has_file() || descriptor.has_directory() ||
                        (descriptor.has_device_node() && !descriptor.device_node().terminal());
  return descriptor.has_pidfd() || (has_path && leads_to_tasks(snapshot, descriptor));
}

}  // namespace snapgdb
