#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "kinds.h"

namespace kinds {
namespace {

using target::differs;
using target::expect_equal;
using target::setup;

constexpr uint64_t kWriteProtectUnpopulated = 1 << 13;  // UFFD_FEATURE_WP_UNPOPULATED, Linux 6.4
constexpr uint64_t kWanted = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_SHMEM |
                             UFFD_FEATURE_MISSING_HUGETLBFS | kWriteProtectUnpopulated;

uint64_t number(const void* address) {
  return reinterpret_cast<uint64_t>(address);
}

// With the right to have the kernel's own faults served, where there is that right.
int open_userfaultfd() {
  constexpr int kFlags = O_CLOEXEC | O_NONBLOCK;
  const auto fd = static_cast<int>(syscall(SYS_userfaultfd, kFlags));
  return fd >= 0 ? fd : static_cast<int>(syscall(SYS_userfaultfd, kFlags | UFFD_USER_MODE_ONLY));
}

uint64_t features_of_kernel() {
  const int fd = setup("userfaultfd", open_userfaultfd());
  uffdio_api api{UFFD_API, 0, 0};
  setup("UFFDIO_API", ioctl(fd, UFFDIO_API, &api));
  close(fd);
  return api.features;
}

}  // namespace

// ---- Setting up -----------------------------------------------------------------------------

Userfault::Userfault(Runs& runs, bool with_huge_pages, bool told_of_forks) : runs_(runs) {
  if (!open(told_of_forks)) return;
  set_up_anonymous();
  set_up_object("uffd-shared", MAP_SHARED, memfd_create("uffd", MFD_CLOEXEC), kPage);
  set_up_object("uffd-view", MAP_PRIVATE, memfd_create("uffd", MFD_CLOEXEC), kPage);
  if (with_huge_pages)
    set_up_object("uffd-hugetlb", MAP_PRIVATE,
                  memfd_create("uffd", MFD_CLOEXEC | MFD_HUGETLB | kHugePageFlag), kHugePage);
  set_up_protected();
  set_up_both();
  end_ = setup("eventfd", eventfd(0, EFD_CLOEXEC));
  handler_ = std::make_unique<target::Thread>("serves pages", [this] { handle(); });
  make_a_thread_wait();
}

Userfault::~Userfault() {
  if (!handler_) return;
  eventfd_write(end_, 1);
  handler_->join();
}

bool Userfault::open(bool told_of_forks) {
  fd_ = open_userfaultfd();
  if (fd_ < 0) {
    passed_over("userfaultfd");
    return false;
  }
  features_ = features_of_kernel() & kWanted;
  if (told_of_forks) features_ |= UFFD_FEATURE_EVENT_FORK;
  uffdio_api api{UFFD_API, features_, 0};
  setup("UFFDIO_API", ioctl(fd_, UFFDIO_API, &api));
  return true;
}

bool Userfault::watch(const std::string& what, char* address, size_t size, uint64_t mode) {
  uffdio_register range{{number(address), size}, mode, 0};
  if (ioctl(fd_, UFFDIO_REGISTER, &range) == 0) return true;
  passed_over(what);
  return false;
}

const Run& Userfault::serve_later(const std::string& name, char* address, size_t size) {
  served_.push_back(&runs_.add(name, address, size, Run::kUndelivered));
  return *served_.back();
}

void Userfault::deliver(const std::string& name, char* address, size_t size) {
  copy(runs_.add(name, address, size, Run::kPattern));
}

void Userfault::copy(const Run& run) const {
  std::vector<uint64_t> words(run.size / 8);
  for (size_t i = 0; i < words.size(); ++i) words[i] = target::mix(run.seed + i);
  uffdio_copy request{number(run.address), number(words.data()), run.size, 0, 0};
  // EEXIST: a thread that was interrupted while it waited for the page has asked for it twice.
  if (ioctl(fd_, UFFDIO_COPY, &request) != 0 && errno != EEXIST)
    differs("UFFDIO_COPY to %s: %s", run.name.c_str(), strerror(errno));
}

void Userfault::set_up_anonymous() {
  char* pages = map(6 * kPage, MAP_PRIVATE | MAP_ANONYMOUS);
  if (!watch("uffd", pages, 6 * kPage, UFFDIO_REGISTER_MODE_MISSING)) return;
  deliver("uffd-delivered", pages);
  serve_later("uffd-undelivered", pages + kPage, 2 * kPage);
  uffdio_zeropage zeros{{number(pages + 3 * kPage), kPage}, 0, 0};
  setup("UFFDIO_ZEROPAGE", ioctl(fd_, UFFDIO_ZEROPAGE, &zeros));
  runs_.add("uffd-delivered-zeros", pages + 3 * kPage, kPage, Run::kZeros);
  const Run& dropped = serve_later("uffd-dropped", pages + 4 * kPage);
  copy(dropped);
  setup("madvise", madvise(dropped.address, kPage, MADV_DONTNEED));
  waited_for_ = &runs_.add("uffd-waited-for", pages + 5 * kPage, kPage, Run::kUndelivered);
}

// Two pages of a file in memory, of which the second is not there yet. Only the shared mapping's
// file stays open.
void Userfault::set_up_object(const std::string& name, int flags, int fd, size_t page) {
  char* pages = nullptr;
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(2 * page)) != 0)
    passed_over(name);
  else
    pages = try_map(name, 2 * page, flags, fd);
  if (fd >= 0 && flags != MAP_SHARED) close(fd);
  if (!pages || !watch(name, pages, 2 * page, UFFDIO_REGISTER_MODE_MISSING)) return;
  deliver(name + "-delivered", pages, page);
  serve_later(name + "-undelivered", pages + page, page);
}

void Userfault::protect(char* address, bool on) const {
  uffdio_writeprotect request{{number(address), kPage}, on ? UFFDIO_WRITEPROTECT_MODE_WP : 0ull};
  target::expect_call("UFFDIO_WRITEPROTECT", ioctl(fd_, UFFDIO_WRITEPROTECT, &request));
}

void Userfault::set_up_protected() {
  char* pages = map(3 * kPage, MAP_PRIVATE | MAP_ANONYMOUS);
  const Run& run = runs_.add_pattern("uffd-protected", pages, 2 * kPage);
  runs_.add("uffd-hole-where-protected", pages + 2 * kPage, kPage, Run::kNothing);
  if (!watch("write protection", pages, 3 * kPage, UFFDIO_REGISTER_MODE_WP)) return;
  protected_ = &run;
  protect(pages, true);
}

// The second page is protected although it is not there, which leaves a mark in the page table.
void Userfault::set_up_both() {
  char* pages = map(3 * kPage, MAP_PRIVATE | MAP_ANONYMOUS);
  if (!watch("both modes", pages, 3 * kPage,
             UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP))
    return;
  deliver("uffd-both-delivered", pages);
  serve_later("uffd-both-marked", pages + kPage);
  serve_later("uffd-both-undelivered", pages + 2 * kPage);
  protect(pages, true);
  if (features_ & kWriteProtectUnpopulated) protect(pages + kPage, true);
}

void Userfault::make_a_thread_wait() {
  if (!waited_for_) return;
  waiter_ = std::make_unique<target::Thread>("waits for one", [this] {
    first_word_ = *static_cast<volatile uint64_t*>(waited_for_->words());
  });
  while (held_back_ == 0) target::sleep_ms(1);
}

// ---- Serving --------------------------------------------------------------------------------

void Userfault::handle() {
  pollfd sources[] = {{fd_, POLLIN, 0}, {end_, POLLIN, 0}};
  while (target::expect_call("poll", poll(sources, 2, -1)) >= 0 && !sources[1].revents) {
    uffd_msg message;
    if (read(fd_, &message, sizeof message) != sizeof message) continue;
    if (message.event == UFFD_EVENT_FORK) {
      ++forks_;
      close(static_cast<int>(message.arg.fork.ufd));
    } else {
      handle_fault(message.arg.pagefault.address, message.arg.pagefault.flags);
    }
  }
}

void Userfault::handle_fault(uint64_t address, uint64_t flags) {
  const auto holds = [address](const Run* run) {
    return run && number(run->address) <= address && address < number(run->address) + run->size;
  };
  if (flags & UFFD_PAGEFAULT_FLAG_WP) {
    ++unprotected_;
    return protect(reinterpret_cast<char*>(address & ~(kPage - 1)), false);
  }
  if (holds(waited_for_)) {
    ++held_back_;
    return;
  }
  ++asked_;
  const auto run = std::find_if(served_.begin(), served_.end(), holds);
  if (run == served_.end()) return differs("asked for a page at 0x%lx", static_cast<long>(address));
  copy(**run);
}

// ---- The check ------------------------------------------------------------------------------

void Userfault::check() {
  expect_equal("pages asked for", asked_, 0);
  expect_equal("writes to what is protected", unprotected_, 0);
  expect_equal("forks", forks_, 0);
  if (waited_for_) {
    copy(*waited_for_);
    waiter_->join();
    expect_equal("what was waited for", first_word_, target::mix(waited_for_->seed));
  }
  for (const Run* run : served_) run->has_pattern();
  expect_equal("pages served", asked_, served_.size());
  if (!protected_) return;
  protected_->words()[0] = protected_->words()[kPage / 8] = 1;
  expect_equal("writes to what was protected", unprotected_, 1);
}

void Userfault::check_told_of_fork() {
  const bool is_told = features_ & UFFD_FEATURE_EVENT_FORK;
  expect_equal("forks that the userfaultfd is told of", forks_, is_told ? 1 : 0);
}

}  // namespace kinds
