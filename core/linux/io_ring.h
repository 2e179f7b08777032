#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "core/base/fd.h"

namespace snapgdb {

// io_uring(7).

// What only who asks for something else is told.
struct RingSecrets {
  bool has_eventfd = false;    // IORING_REGISTER_EVENTFD
  bool single_issuer = false;  // IORING_SETUP_SINGLE_ISSUER: nobody but one thread is told more
};
// Precondition: its program is stopped. Nothing of it is changed.
RingSecrets secrets_of_ring(const Fd& ring);

// The head of what is mapped (struct io_rings, io_uring/io_uring.c).
struct RingHeader {
  uint32_t submitted_head, submitted_tail, completed_head, completed_tail;
  uint32_t submission_mask, completion_mask, submission_entries, completion_entries;
  uint32_t dropped, submission_flags, completion_flags, overflow;
};
// Where mmap(2) shows it: offsets.
inline constexpr uint64_t kRingOffset = 0, kEntriesOffset = 0x10000000;
inline constexpr size_t kSubmissionSize = 64, kCompletionSize = 16;

// Whether a ring can be mapped where one wants it. Newer kernels map it only where they want to
// (io_uring_get_unmapped_area(), io_uring/memmap.c).
bool can_place_rings();

// Where the indices of submissions are in the ring, and where it ends without and with them.
struct RingLayout {
  explicit RingLayout(const RingHeader& header);
  size_t indices, end;
};

// Another one: with the content of what both mappings showed, all submissions completed.
// `with_indices`: not IORING_SETUP_NO_SQARRAY. Throws SystemError.
Fd make_ring(const RingHeader& header, std::span<const std::byte> ring,
             std::span<const std::byte> entries, bool with_indices);

}  // namespace snapgdb
