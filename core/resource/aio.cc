// Contexts of asynchronous I/O, io_setup(2): each is a ring of events that the kernel maps.

#include "core/resource/aio.h"

#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/base/error.h"
#include "core/linux/remote_memory.h"
#include "core/resource/memory.h"
#include "core/resource/resources.h"
#include "core/resource/sharing.h"

namespace snapgdb {
namespace {

struct Ring {  // struct aio_ring, fs/aio.c
  uint32_t id, size, head, tail, magic, compatible, incompatible, header_size;
};
constexpr uint32_t kMagic = 0xa10a10a1;
static_assert(sizeof(Ring) == sizeof(io_event));

// The kernel makes room for twice as many events as are asked for, and two, and fills up pages
// (ioctx_alloc()): this many lead to the same size.
uint32_t events_for(uint64_t size) {
  return static_cast<uint32_t>((size / sizeof(io_event) - 1 - 2) / 2);
}

void capture(CaptureContext&, const FrozenProcess&, pb::Process& process) {
  for (const pb::Vma& vma : process.mappings()) {
    if (!is_aio_ring(vma)) continue;
    pb::AioContext& context = *process.add_aio();
    context.set_address(vma.start());
    context.set_size(size_of(vma));
    context.set_events(events_for(size_of(vma)));
  }
}

// ---- Restoring ----------------------------------------------------------------------------------

std::vector<std::byte> content_of(const Snapshot& snapshot, const pb::Process& process,
                                  const pb::Vma& vma) {
  std::vector<std::byte> content(size_of(vma));
  if (snapshot.read_memory(process, vma.start(), content) != content.size())
    throw Error("cannot restore asynchronous I/O", "its ring is not in the image");
  return content;
}

Ring header_of(std::span<const std::byte> ring) {
  Ring header;
  std::memcpy(&header, ring.data(), sizeof header);
  return header;
}

// Only the kernel moves the tail, and keeps another one to itself: by as many events, of reading
// nothing from a file that is empty.
void move_tail(Seed& seed, uint64_t context, uint32_t by) {
  constexpr uint32_t kAtOnce = 64;
  const auto file = static_cast<uint64_t>(
      seed.call("make a file", SYS_memfd_create, {seed.put("aio"), MFD_CLOEXEC}));
  while (by > 0) {
    const uint32_t count = std::min(by, kAtOnce);
    iocb request{};
    request.aio_fildes = static_cast<uint32_t>(file), request.aio_lio_opcode = IOCB_CMD_PREAD;
    const uint64_t at = seed.put_value(request);
    const std::vector<uint64_t> requests(count, at);
    const int64_t done = seed.call("make events", SYS_io_submit,
                                   {context, count, seed.put(std::as_bytes(std::span(requests)))});
    const std::vector<io_event> room(static_cast<size_t>(done));
    const auto n = static_cast<uint64_t>(done);
    seed.call("take events", SYS_io_getevents,
              {context, n, n, seed.put(std::as_bytes(std::span(room))), 0});
    by -= static_cast<uint32_t>(done);
  }
  seed.call("close a file", SYS_close, {file});
}

// Whether there was a context, in which something may have been under way: the kernel does not
// tell.
bool restore_ring(RestoreContext& context, const pb::Process& process, const pb::Vma& vma,
                  Seed& seed) {
  std::vector<std::byte> content = content_of(context.snapshot, process, vma);
  const Ring then = header_of(content);
  if (then.magic != kMagic) return false;  // its context is gone: a child of who had it
  const uint64_t made_at = seed.put_value(uint64_t{0});
  seed.call("set up asynchronous I/O", SYS_io_setup, {events_for(size_of(vma)), made_at});
  uint64_t made = 0;
  read_remote(seed.tid(), made_at, std::as_writable_bytes(std::span(&made, 1)));
  Ring now{};
  read_remote(seed.tid(), made, std::as_writable_bytes(std::span(&now, 1)));
  if (now.size != then.size)
    throw Error(
        "cannot set up asynchronous I/O",
        fmt::format("its ring has room for {} events here, and had for {}", now.size, then.size),
        "restore it where there are no more processors");
  move_tail(seed, made, then.tail);
  seed.call("move the ring of asynchronous I/O", SYS_mremap,
            {made, size_of(vma), size_of(vma), MREMAP_MAYMOVE | MREMAP_FIXED, vma.start()});
  now.head = then.head, now.tail = then.tail;
  std::memcpy(content.data(), &now, sizeof now);
  write_remote(seed.tid(), vma.start(), content);
  seed.call("protect the ring of asynchronous I/O", SYS_mprotect,
            {vma.start(), size_of(vma), vma.protection()});
  return true;
}

void restore(RestoreContext& context, const pb::Process& process, Seed& seed) {
  if (!is_first_to_share(context.snapshot, process, kMemory)) return;
  bool any = false;
  for (const pb::Vma& vma : process.mappings())
    if (is_aio_ring(vma) && restore_ring(context, process, vma, seed)) any = true;
  const std::string note = "asynchronous I/O, if some was under way, is not begun again";
  if (any && !std::ranges::count(context.notes, note)) context.notes.push_back(note);
}

}  // namespace

bool is_aio_ring(const pb::Vma& vma) {
  return vma.name() == "/[aio]";
}

const ProcessResource kAio{"asynchronous I/O", capture};
const ProcessRestorer kAioRestorer{"asynchronous I/O", restore};

}  // namespace snapgdb
