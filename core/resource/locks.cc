// File locks: of processes (POSIX), of open file descriptions (OFD), and those of flock(2).

#include <fcntl.h>
#include <sys/file.h>
#include <sys/syscall.h>

#include <algorithm>
#include <set>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/task.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

// Of what is being broken, the kernel shows what will be left: a lease for reading can have been
// one for writing only, and nobody may have one for reading of a file that he writes to.
void add_break(std::string_view left, pb::Descriptor& out, pb::FileLock& lock) {
  const bool to_nothing = left == "UNLCK";
  lock.set_breaking(to_nothing ? pb::FileLock::TO_NOTHING : pb::FileLock::TO_SHARED);
  lock.set_exclusive(!to_nothing || (out.flags() & O_ACCMODE) != O_RDONLY);
}

// "1: POSIX  ADVISORY  WRITE 1234 fd:00:5678 0 EOF" (fs/locks.c, lock_get_status)
void add_lock(std::string_view line, pb::Descriptor& out) {
  auto fields = split_blank(line);
  std::erase(fields, "->");  // marks one that waits
  if (fields.size() < 8) return;
  pb::FileLock& lock = *out.add_locks();
  lock.set_kind(printable(fields[1]));
  lock.set_mandatory(fields[2] == "MANDATORY");
  lock.set_exclusive(fields[3] == "WRITE");
  if (fields[2] == "BREAKING") add_break(fields[3], out, lock);
  lock.set_owner(parse_number<int32_t>(fields[4]).value_or(0));
  lock.set_start(parse_number<uint64_t>(fields[6]).value_or(0));
  lock.set_end(parse_number<uint64_t>(fields[7]).value_or(UINT64_MAX));
}

// ---- Restoring ----------------------------------------------------------------------------------

struct flock range_of(const pb::FileLock& lock) {
  struct flock range {};
  range.l_type = lock.exclusive() ? F_WRLCK : F_RDLCK;
  range.l_whence = SEEK_SET;
  range.l_start = static_cast<off_t>(lock.start());
  if (lock.end() != UINT64_MAX) range.l_len = static_cast<off_t>(lock.end() - lock.start() + 1);
  return range;
}

uint64_t way_of(const pb::FileLock& lock) {
  return (lock.exclusive() ? LOCK_EX : LOCK_SH) | LOCK_NB;
}

// -errno: it could not be taken.
int take(const pb::FileLock& lock, const Fd& file) {
  int result = 0;
  if (lock.kind() == "FLOCK") {
    result = ::flock(file.get(), static_cast<int>(way_of(lock)));
  } else {
    struct flock range = range_of(lock);
    result = ::fcntl(file.get(), F_OFD_SETLK, &range);
  }
  return result == 0 ? 0 : -errno;
}

void note_unless_taken(RestoreContext& context, const std::string& what, int64_t result) {
  if (result < 0)
    context.notes.push_back(fmt::format("a lock of {} is not taken again: {}", what,
                                        result == -EAGAIN || result == -EACCES
                                            ? "somebody else has locked it"
                                            : errno_text(static_cast<int>(-result))));
}

}  // namespace

void capture_locks(const ProcFields& info, pb::Descriptor& out) {
  for (const std::string_view lock : info.all("lock")) add_lock(lock, out);
}

namespace {

// Who takes the lock of a description again: its owner if that has it open still, or the first who
// has. nullptr: nobody of the tree.
const pb::Process* taker_of(const Snapshot& snapshot, const pb::FileLock& lock,
                            uint32_t description) {
  const auto holds = [&](const pb::Process& process) {
    return std::ranges::find(process.descriptors(), description, &pb::Descriptor::description) !=
           process.descriptors().end();
  };
  const pb::Process* owner = snapshot.process(lock.owner());
  if (owner && holds(*owner)) return owner;
  const auto found = std::ranges::find_if(snapshot.processes(), holds);
  return found == snapshot.processes().end() ? nullptr : &*found;
}

// Opening the file begins it anew, with the whole time that the kernel gives for it. Whoever is to
// be told has been told: it is nobody until the receivers of signals are restored.
void break_lease(RestoreContext& context, const pb::Descriptor& descriptor,
                 const pb::FileLock& lock, Seed& seed) {
  const auto number = static_cast<uint64_t>(descriptor.number());
  seed.call("silence a lease", SYS_fcntl, {number, F_SETOWN, 0});
  const uint64_t way = lock.breaking() == pb::FileLock::TO_NOTHING ? O_WRONLY : O_RDONLY;
  const int64_t result =
      seed.try_call(SYS_open, {seed.put(descriptor.target()), way | O_NONBLOCK | O_CLOEXEC});
  if (result >= 0) seed.call("close a file", SYS_close, {static_cast<uint64_t>(result)});
  if (result != -EWOULDBLOCK)
    context.notes.push_back(fmt::format(
        "the lease of {} is not being broken any more: {}", printable(descriptor.target()),
        result >= 0 ? "opening it was let through" : errno_text(static_cast<int>(-result))));
}

// By who had taken it: that is who is told when somebody else opens the file.
void take_lease(RestoreContext& context, const pb::Descriptor& descriptor, const pb::FileLock& lock,
                Seed& seed) {
  const uint64_t kind = lock.exclusive() ? F_WRLCK : F_RDLCK;
  const int64_t result =
      seed.try_call(SYS_fcntl, {static_cast<uint64_t>(descriptor.number()), F_SETLEASE, kind});
  if (result < 0)
    context.notes.push_back(fmt::format(
        "the lease of {} is not taken again: {}", printable(descriptor.target()),
        result == -EAGAIN ? "somebody else has it open" : errno_text(static_cast<int>(-result))));
  else if (lock.breaking() != pb::FileLock::NOT)
    break_lease(context, descriptor, lock, seed);
}

// Of a description, at one of its descriptors. The kernel tells others who took them.
void take_locks_of_description(RestoreContext& context, const pb::Process& process,
                               const pb::Descriptor& descriptor, Seed& seed) {
  const auto number = static_cast<uint64_t>(descriptor.number());
  for (const pb::FileLock& lock : descriptor.locks())
    if (lock.kind() == "LEASE" && lock.owner() == process.pid())
      take_lease(context, descriptor, lock, seed);
    else if (lock.kind() == "FLOCK" &&
             taker_of(context.snapshot, lock, descriptor.description()) == &process)
      note_unless_taken(context, printable(descriptor.target()),
                        seed.try_call(SYS_flock, {number, way_of(lock)}));
}

}  // namespace

void take_locks_of_process(RestoreContext& context, const pb::Process& process, Seed& seed) {
  std::set<uint32_t> descriptions;
  for (const pb::Descriptor& descriptor : process.descriptors()) {
    if (descriptions.insert(descriptor.description()).second)
      take_locks_of_description(context, process, descriptor, seed);
    for (const pb::FileLock& lock : descriptor.locks())
      if (lock.kind() == "POSIX")
        note_unless_taken(context, printable(descriptor.target()),
                          seed.try_call(SYS_fcntl, {static_cast<uint64_t>(descriptor.number()),
                                                    F_SETLK, seed.put_value(range_of(lock))}));
  }
}

void take_locks_of_files(RestoreContext& context) {
  const RestorePlan& plan = context.plan;
  for (size_t i = 0; i < plan.files.size(); ++i) {
    const PlannedFile& file = plan.files[i];
    if (!file.descriptor || file.how != PlannedFile::How::kOpened) continue;
    for (const pb::FileLock& lock : file.descriptor->locks()) {
      const bool is_free = lock.kind() == "FLOCK" &&
                           !taker_of(context.snapshot, lock, file.descriptor->description());
      if (!is_free && lock.kind() != "OFDLCK") continue;
      note_unless_taken(context, file.what, take(lock, planned_file(context, i)));
    }
  }
}

}  // namespace snapgdb
