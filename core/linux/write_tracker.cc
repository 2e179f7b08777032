#include "core/linux/write_tracker.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/linux/task.h"
#include "core/linux/visitor.h"

namespace snapgdb {
namespace {

// Newer than Debian 12's headers. include/uapi/linux/userfaultfd.h
constexpr uint64_t kWriteProtectUnpopulated = 1 << 13, kWriteProtectAsync = 1 << 15;

// The program waits while a slice is let go: about 0.2 ms for this many bytes of 4 KiB pages.
constexpr uint64_t kSlice = uint64_t{8} << 20;

constexpr int kUserfault = O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY;

// False: errno says why not.
bool tracks_writes(const Fd& userfault) {
  uffdio_api api{UFFD_API,
                 UFFD_FEATURE_PAGEFAULT_FLAG_WP | kWriteProtectAsync | kWriteProtectUnpopulated, 0};
  return ::ioctl(userfault.get(), UFFDIO_API, &api) == 0;
}

// The first descriptor of a thread that begins without any.
constexpr int kFirstDescriptor = 0;

Fd fetch_descriptor(Tid thread, int number) {
  const Fd task(static_cast<int>(::syscall(SYS_pidfd_open, thread.value, kPidfdThread)));
  if (!task.valid()) throw_errno("cannot hold thread {} by a descriptor", thread.value);
  Fd fd(static_cast<int>(::syscall(SYS_pidfd_getfd, task.get(), number, 0)));
  if (!fd.valid()) throw_errno("cannot get a userfaultfd for task {}", thread.value);
  return fd;
}

}  // namespace

WriteTracker::WriteTracker(Tracee& host, const Detour::Place& place, const ProcDirectory& proc)
    : pagemap_(proc) {
  Visitor visitor(host, place);
  visitor.call(SYS_userfaultfd, {kUserfault});
  visitor.run([&](Tid thread) { userfault_ = fetch_descriptor(thread, kFirstDescriptor); });
  visitor.leave();
  if (!tracks_writes(userfault_)) throw_errno("cannot track writes by userfaultfd");
}

std::string WriteTracker::why_not_here() {
  const Fd userfault(static_cast<int>(::syscall(SYS_userfaultfd, kUserfault)));
  if (!userfault.valid()) return "userfaultfd: " + errno_text(errno);
  return tracks_writes(userfault) ? "" : "asynchronous write-protection: " + errno_text(errno);
}

// Unprotecting is what takes long, so it comes first, slice by slice: a page fault of the program
// waits for one slice at most. Unregistering a part of a mapping would split it, and mremap(2)
// fails on a mapping that is split.
WriteTracker::~WriteTracker() {
  if (!userfault_.valid()) return;
  for (const Range& range : ranges_) {
    for (uint64_t at = range.start; at < range.end; at += kSlice) {
      uffdio_writeprotect slice{{at, std::min(kSlice, range.end - at)}, 0};
      ::ioctl(userfault_.get(), UFFDIO_WRITEPROTECT, &slice);
    }
    uffdio_range whole{range.start, range.end - range.start};
    // Either fails where the program has unmapped everything meanwhile: that is let go already.
    ::ioctl(userfault_.get(), UFFDIO_UNREGISTER, &whole);
  }
}

bool WriteTracker::add(uint64_t start, uint64_t end) {
  uffdio_register registration{};
  registration.range = {start, end - start};
  registration.mode = UFFDIO_REGISTER_MODE_WP;
  if (::ioctl(userfault_.get(), UFFDIO_REGISTER, &registration) != 0) return false;
  ranges_.push_back({start, end});
  return true;
}

void WriteTracker::take_written(uint64_t start, uint64_t end, const Found& found) const {
  pagemap_.protect_written(start, end, found);
}

uint64_t WriteTracker::count_written() const {
  uint64_t bytes = 0;
  for (const Range& range : ranges_)
    pagemap_.for_each_written(range.start, range.end,
                              [&](uint64_t start, uint64_t end) { bytes += end - start; });
  return bytes / 4096;
}

}  // namespace snapgdb
