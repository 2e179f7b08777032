#include "core/resource/io_uring.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/io_ring.h"
#include "core/linux/task.h"
#include "core/resource/resources.h"
#include "core/resource/sharing.h"

namespace snapgdb {
namespace {

constexpr std::string_view kTarget = "anon_inode:[io_uring]";
constexpr uint32_t kSingleIssuer = 1 << 12;  // IORING_SETUP_SINGLE_ISSUER, Linux 6.0

bool matches(const OpenDescriptor& open) {
  return open.target == kTarget;
}

// ---- Capture ------------------------------------------------------------------------------------

// "SqMask:\t0x3"
uint32_t mask_in(const ProcFields& info, std::string_view key) {
  std::string_view text = trim(info.text(key));
  if (text.starts_with("0x")) text.remove_prefix(2);
  return parse_number<uint32_t>(text, 16).value_or(0);
}

// How many lines of a list there are: they begin with blanks.
uint32_t lines_below(std::string_view text, std::string_view head) {
  uint32_t lines = 0;
  bool is_below = false;
  for (const std::string_view line : split(text, '\n')) {
    is_below = line.starts_with(head) || (is_below && line.starts_with(' '));
    lines += is_below && line.starts_with(' ');
  }
  return lines;
}

// fdinfo (io_uring/fdinfo.c) does not tell how it was set up.
void capture(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::IoUring& ring = *out.mutable_io_uring();
  const auto number = [&](std::string_view key) {
    return static_cast<uint32_t>(open.info.number(key));
  };
  ring.set_submission_entries(mask_in(open.info, "SqMask") + 1);
  ring.set_completion_entries(mask_in(open.info, "CqMask") + 1);
  ring.set_submitted(number("CachedSqHead"));
  ring.set_completed(number("CachedCqTail"));
  ring.set_in_flight(ring.submitted() - ring.completed());
  ring.set_unsubmitted(number("SqTail") - ring.submitted());
  ring.set_unread(number("CqTail") - number("CqHead"));
  ring.set_registered_files(number("UserFiles"));
  ring.set_registered_buffers(number("UserBufs"));
  ring.set_personalities(lines_below(open.info_text, "Personalities:"));
  ring.set_polled(lines_below(open.info_text, "PollList:"));
  ring.set_overflowed(lines_below(open.info_text, "CqOverflowList:"));
  const Fd same = duplicate_descriptor(open.process.a_task(), open.number);
  if (!same.valid())
    return context.lacks(open.process.pid, {}, "state of " + open.target,
                         "pidfd_getfd(2) is refused");
  const RingSecrets secrets = secrets_of_ring(same);
  ring.set_has_eventfd(secrets.has_eventfd);
  ring.set_flags((trim(open.info.text("SqThread")) == "-1" ? 0 : uint32_t{IORING_SETUP_SQPOLL}) |
                 (secrets.single_issuer ? kSingleIssuer : 0));
}

// ---- Restoring ----------------------------------------------------------------------------------

// All that the program has of it: it may have one mapping for the ring, and one more that shows the
// same.
struct Mapped {
  const pb::Process* process = nullptr;
  const pb::Vma *ring = nullptr, *entries = nullptr;
};
Mapped mapped(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  for (const pb::Process& process : snapshot.processes()) {
    Mapped found{.process = &process};
    for (const pb::Vma& vma : process.mappings()) {
      if (!is_io_uring(vma) || vma.inode() != descriptor.inode()) continue;
      if (vma.offset() == kRingOffset) found.ring = &vma;
      if (vma.offset() == kEntriesOffset) found.entries = &vma;
    }
    if (found.ring && found.entries) return found;
  }
  return {};
}

std::vector<std::byte> content_of(const Snapshot& snapshot, const pb::Process& process,
                                  const pb::Vma& vma) {
  std::vector<std::byte> content(vma.end() - vma.start());
  content.resize(snapshot.read_memory(process, vma.start(), content));
  return content;
}

RingHeader header_of(std::span<const std::byte> ring) {
  RingHeader header{};
  std::memcpy(&header, ring.data(), std::min(ring.size(), sizeof header));
  return header;
}

std::string why_not_idle(const pb::IoUring& ring) {
  constexpr uint32_t kMost = 1 << 26;  // seconds
  const auto some = [](uint32_t n, const char* what) { return fmt::format("{} {}", n, what); };
  if (ring.flags() & IORING_SETUP_SQPOLL) return "a thread of the kernel polls it";
  if (ring.flags() & kSingleIssuer)
    return "the kernel tells its state to one thread only (IORING_SETUP_SINGLE_ISSUER)";
  if (ring.unsubmitted()) return some(ring.unsubmitted(), "requests are not submitted");
  if (ring.polled()) return some(ring.polled(), "requests wait for files to be ready");
  if (ring.in_flight())
    return fmt::format("{} requests and {} completions: some may be in flight", ring.submitted(),
                       ring.completed());
  if (ring.overflowed()) return some(ring.overflowed(), "completions have no room in it");
  if (ring.registered_files()) return some(ring.registered_files(), "files are registered with it");
  if (ring.registered_buffers())
    return some(ring.registered_buffers(), "buffers are registered with it");
  if (ring.personalities()) return some(ring.personalities(), "credentials are registered with it");
  if (ring.has_eventfd()) return "an eventfd is registered with it";
  return ring.submitted() > kMost ? some(ring.submitted(), "requests were too many") : "";
}

std::string obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  if (std::string why = why_not_idle(descriptor.io_uring()); !why.empty()) return why;
  const Mapped found = mapped(snapshot, descriptor);
  if (!found.process) return "nobody has it mapped as usual";
  const auto ring = content_of(snapshot, *found.process, *found.ring);
  const RingHeader header = header_of(ring);
  const size_t entries = header.submission_entries * kSubmissionSize;
  if (header.submission_entries != descriptor.io_uring().submission_entries() ||
      header.completion_entries != descriptor.io_uring().completion_entries() ||
      header.submitted_head != descriptor.io_uring().submitted())
    return "its rings are not in the image";
  if (page_up(RingLayout(header).indices) > ring.size() ||
      page_up(entries) != found.entries->end() - found.entries->start())
    return "its entries are not of the usual size (IORING_SETUP_SQE128, IORING_SETUP_CQE32)";
  return can_place_rings() ? "" : "this kernel does not let it be mapped where it was";
}

// Programs write each index once. Where all are 0, the ring has none; or a program that has not
// begun yet, and will write them in order.
bool has_indices(std::span<const std::byte> ring) {
  const RingHeader header = header_of(ring);
  const RingLayout layout(header);
  if (layout.end > ring.size() || header.submission_entries < 2) return false;
  return std::ranges::any_of(ring.subspan(layout.indices, layout.end - layout.indices),
                             [](std::byte byte) { return byte != std::byte{0}; });
}

Fd open(OpeningContext& context, const pb::Descriptor& descriptor) {
  const Mapped found = mapped(context.snapshot, descriptor);
  const auto ring = content_of(context.snapshot, *found.process, *found.ring);
  const auto entries = content_of(context.snapshot, *found.process, *found.entries);
  return make_ring(header_of(ring), ring, entries, has_indices(ring));
}

std::string note(const pb::Descriptor&) {
  return "it is set up without flags that the kernel does not show (IORING_SETUP_*)";
}

// While the process has the files of the plan.
void restore(RestoreContext& context, const pb::Process& process, Seed& seed) {
  if (!is_first_to_share(context.snapshot, process, kMemory)) return;
  std::map<uint64_t, int> rings;  // by inode
  for (const pb::Process& other : context.snapshot.processes())
    for_each_descriptor(other, [&](const pb::Descriptor& descriptor) {
      if (descriptor.has_io_uring()) rings[descriptor.inode()] = context.plan.file_of(descriptor);
    });
  for (const pb::Vma& vma : process.mappings()) {
    const auto ring = is_io_uring(vma) ? rings.find(vma.inode()) : rings.end();
    if (ring == rings.end()) continue;
    seed.add_if_allowed("map an io_uring", SYS_mmap,
                        {vma.start(), vma.end() - vma.start(), vma.protection(),
                         MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE,
                         static_cast<uint64_t>(ring->second), vma.offset()});
  }
  context.perform(seed, process.pid());
}

}  // namespace

bool is_io_uring(const pb::Vma& vma) {
  return vma.name() == kTarget;
}

const ProcessRestorer kIoUringRestorer{"io_uring", restore};
const DescriptorRestorer kIoUringFileRestorer{pb::Descriptor::kIoUring, obstacle, open, note};
const DescriptorResource kIoUring{"io_uring", matches, capture};

}  // namespace snapgdb
