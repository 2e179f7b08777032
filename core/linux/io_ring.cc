#include "core/linux/io_ring.h"

#include <linux/io_uring.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/base/error.h"

namespace snapgdb {
namespace {

constexpr uint32_t kNoIndices = 1 << 16;  // IORING_SETUP_NO_SQARRAY, Linux 6.6

int control(const Fd& ring, unsigned what, const void* argument, unsigned count) {
  return static_cast<int>(::syscall(SYS_io_uring_register, ring.get(), what, argument, count));
}

class Mapping {
 public:
  Mapping(const Fd& ring, uint64_t offset, size_t size) : size_(size) {
    memory_ = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.get(),
                     static_cast<off_t>(offset));
    if (memory_ == MAP_FAILED) throw_errno("cannot map an io_uring");
  }
  ~Mapping() { ::munmap(memory_, size_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  template <typename T>
  T* at(size_t offset) const {
    return reinterpret_cast<T*>(static_cast<std::byte*>(memory_) + offset);
  }
  void fill(std::span<const std::byte> content) const {
    std::memcpy(memory_, content.data(), std::min(size_, content.size()));
  }

 private:
  void* memory_;
  size_t size_;
};

// The kernel counts for itself how much was submitted and completed: as much, of nothing.
void submit_nothing(const Fd& ring, const Mapping& rings, const Mapping& entries, size_t indices,
                    uint32_t times) {
  auto& header = *rings.at<RingHeader>(0);
  for (uint32_t i = 0; i < header.submission_entries; ++i) {
    entries.at<io_uring_sqe>(0)[i] = {.opcode = IORING_OP_NOP};
    if (indices) rings.at<uint32_t>(indices)[i] = i;
  }
  while (times > 0) {
    const uint32_t some = std::min(times, header.submission_entries);
    std::atomic_ref(header.submitted_tail).fetch_add(some, std::memory_order_release);
    const long done = ::syscall(SYS_io_uring_enter, ring.get(), some, 0, 0, nullptr, 0);
    if (done < 0 && errno == EINTR) continue;
    if (done != static_cast<long>(some)) throw_errno("cannot submit to an io_uring");
    std::atomic_ref(header.completed_head)
        .store(std::atomic_ref(header.completed_tail).load(std::memory_order_acquire));
    times -= some;
  }
}

}  // namespace

bool can_place_rings() {
  io_uring_params parameters{};
  const Fd ring(static_cast<int>(::syscall(SYS_io_uring_setup, 1, &parameters)));
  if (!ring.valid()) return false;
  constexpr size_t kSize = 4096;
  void* const room = ::mmap(nullptr, kSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) return false;
  const bool placed = ::mmap(room, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                             ring.get(), kRingOffset) == room;
  ::munmap(room, kSize);
  return placed;
}

RingSecrets secrets_of_ring(const Fd& ring) {
  const Fd event(::eventfd(0, EFD_CLOEXEC));
  if (!event.valid()) throw_errno("cannot make an eventfd");
  const int number = event.get();
  RingSecrets secrets;
  if (control(ring, IORING_REGISTER_EVENTFD, &number, 1) == 0)
    control(ring, IORING_UNREGISTER_EVENTFD, nullptr, 0);
  else
    secrets.has_eventfd = errno == EBUSY, secrets.single_issuer = errno == EEXIST;
  return secrets;
}

// As rings_size() of io_uring/io_uring.c has it; cache lines of 64 bytes.
RingLayout::RingLayout(const RingHeader& header) {
  constexpr size_t kLine = 64;
  indices = kLine + header.completion_entries * kCompletionSize;
  indices = (indices + kLine - 1) / kLine * kLine;
  end = indices + header.submission_entries * sizeof(uint32_t);
}

Fd make_ring(const RingHeader& header, std::span<const std::byte> ring,
             std::span<const std::byte> entries, bool with_indices) {
  io_uring_params parameters{};
  parameters.flags = IORING_SETUP_CQSIZE | (with_indices ? 0 : kNoIndices);
  parameters.cq_entries = header.completion_entries;
  Fd made(static_cast<int>(
      ::syscall(SYS_io_uring_setup, header.submission_entries, &parameters)));  // close-on-exec
  if (!made.valid()) throw_errno("cannot make an io_uring");
  const size_t indices = with_indices ? parameters.sq_off.array : 0;
  const Mapping rings(made, kRingOffset, ring.size()), list(made, kEntriesOffset, entries.size());
  if (std::memcmp(&rings.at<RingHeader>(0)->submission_mask, &header.submission_mask,
                  4 * sizeof(uint32_t)) != 0 ||
      (indices && indices != RingLayout(header).indices))
    throw Error("cannot make an io_uring", "this kernel lays it out in another way");
  submit_nothing(made, rings, list, indices, header.submitted_head);
  rings.fill(ring), list.fill(entries);
  return made;
}

}  // namespace snapgdb
