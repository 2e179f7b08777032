#include "core/linux/lazy_space.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "core/base/error.h"
#include "core/linux/task.h"

namespace snapgdb {
namespace {

constexpr uint64_t kPage = 4096;
// Brought with a page that was touched: its neighbours are likely to be next.
constexpr uint64_t kAround = 16 * kPage;
// Who touches a page waits for one such step of others at most: about 0.1 ms.
constexpr uint64_t kStep = 64 * kPage;

constexpr uint64_t kFeatures = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
                               UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP |
                               UFFD_FEATURE_THREAD_ID;

}  // namespace

// Faults of the kernel's own, as in read(2), must be told too: so never UFFD_USER_MODE_ONLY.
namespace {

// The system call wants CAP_SYS_PTRACE outside of all user namespaces; the device (Linux 6.1) whom
// its file lets.
int64_t make_userfault(Seed& seed) {
  constexpr uint64_t kFlags = O_CLOEXEC | O_NONBLOCK;
  const int64_t number = seed.try_call(SYS_userfaultfd, {kFlags});
  if (number != -EPERM) return number;
  const int64_t device = seed.try_call(
      SYS_openat,
      {static_cast<uint64_t>(AT_FDCWD), seed.put(kUserfaultDevice), uint64_t{O_RDWR | O_CLOEXEC}});
  if (device < 0) return number;
  const auto opened = static_cast<uint64_t>(device);
  const int64_t made = seed.try_call(SYS_ioctl, {opened, USERFAULTFD_IOC_NEW, kFlags});
  seed.call("close a device", SYS_close, {opened});
  return made;
}

}  // namespace

LazySpace::LazySpace(Seed& seed) {
  const int64_t number = make_userfault(seed);
  if (number < 0) throw SystemError("cannot make a userfaultfd", static_cast<int>(-number));
  userfault_ = duplicate_descriptor(seed.tid(), static_cast<int>(number));
  seed.call("close a userfaultfd", SYS_close, {static_cast<uint64_t>(number)});
  if (!userfault_.valid()) throw_errno("cannot get a userfaultfd of {}", seed.tid().value);
  uffdio_api api{UFFD_API, kFeatures, 0};
  if (::ioctl(userfault_.get(), UFFDIO_API, &api) != 0) throw_errno("cannot use a userfaultfd");
}

void LazySpace::watch(uint64_t start, uint64_t size) {
  uffdio_register registration{};
  registration.range = {start, size};
  registration.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (::ioctl(userfault_.get(), UFFDIO_REGISTER, &registration) != 0)
    throw_errno("cannot watch memory at {:#x}", start);
}

void LazySpace::add_absent(uint64_t start, uint64_t size, uint64_t first) {
  absent_[start] = {size, first};
}

// ---- What is absent -----------------------------------------------------------------------------

// The run that begins at `at` or behind it, none lying across it any more.
LazySpace::Runs::iterator LazySpace::split(uint64_t at) {
  const auto after = absent_.lower_bound(at);
  if (after == absent_.begin()) return after;
  auto& [start, run] = *std::prev(after);
  if (start + run.size <= at) return after;
  const uint64_t before = at - start;
  const Run rest{run.size - before, run.first + before / kPage};
  run.size = before;
  return absent_.emplace_hint(after, at, rest);
}

// Takes out what lies in [start, end).
LazySpace::Runs LazySpace::cut(uint64_t start, uint64_t end) {
  Runs taken;
  split(end);
  for (auto run = split(start); run != absent_.end() && run->first < end;)
    taken.insert(absent_.extract(run++));
  return taken;
}

void LazySpace::move(uint64_t from, uint64_t to, uint64_t size) {
  const Runs moved = cut(from, from + size);
  cut(to, to + size);
  for (const auto& [start, run] : moved) absent_[start - from + to] = run;
}

LazySpace::Runs::const_iterator LazySpace::run_with(uint64_t address) const {
  const auto after = absent_.upper_bound(address);
  if (after == absent_.begin()) return absent_.end();
  const auto run = std::prev(after);
  return address < run->first + run->second.size ? run : absent_.end();
}

// ---- Bringing pages -----------------------------------------------------------------------------

void LazySpace::wake(uint64_t address) const {
  uffdio_range range{address, kPage};
  if (::ioctl(userfault_.get(), UFFDIO_WAKE, &range) != 0) throw_errno("cannot wake a thread");
}

// Moves `at` behind what is settled: put there, there already, or not to be there any more. False:
// the kernel has something to tell first (a mapping is being changed).
bool LazySpace::put(uint64_t& at, std::span<const std::byte> pages) {
  size_t limit = pages.size();
  bool was_nowhere = false;
  while (!pages.empty() && !gone_) {
    uffdio_copy copy{at, reinterpret_cast<uint64_t>(pages.data()), std::min(limit, pages.size()), 0,
                     0};
    uint64_t settled = copy.len;
    if (::ioctl(userfault_.get(), UFFDIO_COPY, &copy) != 0) {
      const int error = errno;
      settled = copy.copy > 0 ? static_cast<uint64_t>(copy.copy) : 0;
      // ENOENT across the border of two mappings: page by page. At a page it is either nowhere any
      // more, or was moved this moment; then the kernel says EAGAIN when it is asked again.
      const bool nowhere = error == ENOENT && copy.len == kPage;
      if (settled == 0) {
        if (error == EAGAIN) return false;
        if (error == EEXIST || (nowhere && was_nowhere))
          wake(at), settled = kPage;
        else if (error == ENOENT)
          limit = kPage;
        else if (error == ESRCH)
          gone_ = true;
        else
          throw SystemError(fmt::format("cannot put memory at {:#x}", at), error);
      }
      was_nowhere = nowhere && settled == 0;
    }
    at += settled;
    pages = pages.subspan(settled);
  }
  return true;
}

// Precondition: it lies within one run.
bool LazySpace::bring(const PageSource& source, uint64_t start, uint64_t end) {
  const auto run = run_with(start);
  const uint64_t first = run->second.first + (start - run->first) / kPage;
  uint64_t at = start;
  bool going = true;
  source(first, (end - start) / kPage, [&](std::span<const std::byte> pages) {
    if (going) going = put(at, pages);
  });
  cut(start, at);
  return going;
}

bool LazySpace::put_zeros(uint64_t address) {
  uffdio_zeropage zeros{{address, kPage}, 0, 0};
  if (::ioctl(userfault_.get(), UFFDIO_ZEROPAGE, &zeros) == 0) return true;
  if (errno == EAGAIN) return false;
  if (errno == ESRCH)
    gone_ = true;
  else if (errno == EEXIST || errno == ENOENT)
    wake(address);
  else
    throw_errno("cannot put zeros at {:#x}", address);
  return true;
}

bool LazySpace::serve(const PageSource& source, uint64_t address) {
  const auto run = run_with(address);
  if (run == absent_.end()) return put_zeros(address);
  const uint64_t start = std::max(run->first, address & ~(kAround - 1));
  next_ = std::min(run->first + run->second.size, (address & ~(kAround - 1)) + kAround);
  // From the page itself on: it is what is waited for.
  return bring(source, address, next_) && (start == address || bring(source, start, address));
}

bool LazySpace::bring_some(const PageSource& source) {
  if (absent_.empty() || gone_) return true;
  auto run = run_with(next_);
  if (run == absent_.end()) run = absent_.lower_bound(next_);
  if (run == absent_.end()) run = absent_.begin(), next_ = 0;
  const uint64_t start = std::max(run->first, next_);
  next_ = std::min(run->first + run->second.size, start + kStep);
  return bring(source, start, next_);
}

// ---- What the kernel tells ----------------------------------------------------------------------

void LazySpace::answer(const PageSource& source, std::vector<LazySpace>& born) {
  uffd_msg message;
  ssize_t n;
  while ((n = ::read(userfault_.get(), &message, sizeof message)) == sizeof message) {
    const auto& told = message.arg;
    switch (message.event) {
      case UFFD_EVENT_PAGEFAULT:
        faults_.push_back(told.pagefault.address & ~(kPage - 1));
        break;
      case UFFD_EVENT_FORK:
        born.push_back(LazySpace(Fd(static_cast<int>(told.fork.ufd)), absent_));
        break;
      case UFFD_EVENT_REMAP:
        move(told.remap.from, told.remap.to, told.remap.len);
        break;
      case UFFD_EVENT_REMOVE:
      case UFFD_EVENT_UNMAP:
        cut(told.remove.start, told.remove.end);
        break;
      default:
        throw Error("cannot bring memory to the tree",
                    fmt::format("the kernel tells of {}, which is unknown", message.event));
    }
  }
  if (n < 0 && errno != EAGAIN && errno != EINTR) throw_errno("cannot read a userfaultfd");
  std::erase_if(faults_, [&](uint64_t address) { return serve(source, address); });
}

}  // namespace snapgdb
