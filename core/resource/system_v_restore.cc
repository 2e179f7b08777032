// System V objects: made by a restore, filled, attached where they were.

#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include <algorithm>
#include <bit>
#include <map>
#include <set>

#include "core/base/error.h"
#include "core/resource/memory.h"
#include "core/resource/spaces.h"
#include "core/resource/system_v.h"
#include "core/resource/system_v_records.h"

namespace snapgdb {

// ---- Making them --------------------------------------------------------------------------------

namespace {

// An attachment to a segment.
struct Attached {
  const pb::Process& process;
  const pb::Vma& vma;
};

// Where a mapping comes from, as far as it tells: by number, device and the key that it is named
// by, which a removed one has lost.
bool is_of(const pb::Vma& vma, const pb::SharedMemorySegment& segment) {
  return segment.device() == device_of(vma) &&
         (segment.removed() || key_in(vma) == static_cast<uint32_t>(segment.permissions().key()));
}

struct Origin {
  uint64_t space = 0;  // the ipc namespace
  const pb::SharedMemorySegment* segment = nullptr;
};

// Of that namespace where the process is; or of another one, where it was when it attached it.
Origin origin_of(const RestorePlan& plan, const pb::Process& process, const pb::Vma& vma) {
  Origin origin;
  if (!is_segment(vma)) return origin;
  for (const auto& [space, planned] : plan.system_v.spaces) {
    const auto found = planned.segments.find(vma.inode());
    if (found == planned.segments.end() || !is_of(vma, *found->second)) continue;
    if (!origin.segment || space == ipc_of(process)) origin = {space, found->second};
  }
  return origin;
}

const pb::SharedMemorySegment* segment_of(const RestorePlan& plan, const pb::Process& process,
                                          const pb::Vma& vma) {
  return origin_of(plan, process, vma).segment;
}

std::vector<Attached> attachments_of(const Snapshot& snapshot, const RestorePlan& plan,
                                     const pb::SharedMemorySegment& segment) {
  std::vector<Attached> all;
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Vma& vma : process.mappings())
      if (segment_of(plan, process, vma) == &segment) all.push_back({process, vma});
  return all;
}

// Of huge pages, if who has it mapped says so.
int flags_of(const std::vector<Attached>& attachments) {
  for (const auto& [process, vma] : attachments)
    if (has_flag(vma, "ht"))
      return SHM_HUGETLB | std::countr_zero(vma.page_size()) << MAP_HUGE_SHIFT;
  return 0;
}

// A removed one has no key any more, but mappings go on being named by the one that it had.
int32_t key_to_make(const std::vector<Attached>& attachments,
                    const pb::SharedMemorySegment& segment) {
  if (!segment.removed()) return segment.permissions().key();
  if (attachments.empty()) return IPC_PRIVATE;
  const auto key = key_in(attachments.front().vma);
  const bool is_free = key && ::shmget(static_cast<key_t>(*key), 0, 0) < 0 && errno == ENOENT;
  return is_free ? static_cast<int32_t>(*key) : IPC_PRIVATE;
}

// Returns whether the image has all of what the mapping shows.
bool fill_from_mapping(const Snapshot& snapshot, const pb::Process& process, const pb::Vma& vma,
                       std::span<std::byte> memory) {
  bool whole = true;
  for (const Extent& extent : snapshot.extents(process).overlapping(vma.start(), vma.end())) {
    whole &= extent.source != pb::SOURCE_MISSING;
    if (extent.source != pb::SOURCE_STORED) continue;
    const uint64_t start = std::max(extent.start, vma.start()),
                   end = std::min(extent.end(), vma.end());
    uint64_t at = vma.offset() + (start - vma.start());
    snapshot.pages().visit_pages(
        extent.where + (start - extent.start) / kPageSize, (end - start) / kPageSize,
        [&](std::span<const std::byte> pages) {
          const uint64_t room = memory.size() - std::min<uint64_t>(at, memory.size());
          std::ranges::copy(pages.first(std::min<uint64_t>(pages.size(), room)),
                            memory.begin() + static_cast<ptrdiff_t>(at));
          at += pages.size();
        });
  }
  return whole;
}

// What one process shows of it as a whole, others need not show again.
void fill_from_mappings(const Snapshot& snapshot, const std::vector<Attached>& attachments,
                        std::span<std::byte> memory) {
  std::set<std::pair<uint64_t, uint64_t>> done;
  for (const auto& [process, vma] : attachments) {
    const std::pair range{vma.offset(), size_of(vma)};
    if (!done.contains(range) && fill_from_mapping(snapshot, process, vma, memory))
      done.insert(range);
  }
}

void fill(const Snapshot& snapshot, const std::vector<Attached>& attachments,
          const pb::SharedMemorySegment& segment) {
  const Attachment attached(segment.permissions().id(), segment.size(), 0);
  const pb::FileRecord* file = snapshot.file(segment.nameless());
  if (file && file->embedded())
    snapshot.read_file(*file, 0, attached.bytes());
  else
    fill_from_mappings(snapshot, attachments, attached.bytes());
}

}  // namespace

void MadeSystemV::make(const Snapshot& snapshot, const RestorePlan& plan, uint64_t space) {
  const auto found = plan.system_v.spaces.find(space);
  if (found == plan.system_v.spaces.end()) return;
  const SystemVObjects& planned = found->second;
  const pb::SystemV& objects = *planned.objects;
  const auto make_if_planned = [&](IpcKind kind, const IpcObject& wanted, int flags,
                                   const auto& fill_it) {
    if (!planned.made.contains({kind, wanted.id})) return;
    make_ipc(kind, wanted, flags);
    made_.push_back({kind, wanted.id});
    fill_it();
    IpcObject owned = wanted;
    owned.owner = plan.numbers.user(wanted.owner), owned.group = plan.numbers.group(wanted.group);
    set_ipc_permissions(kind, owned);
  };
  for (const pb::SharedMemorySegment& segment : objects.shared_memory()) {
    const std::vector<Attached> attachments = attachments_of(snapshot, plan, segment);
    IpcObject wanted = object_of(segment);
    wanted.key = key_to_make(attachments, segment);
    make_if_planned(IpcKind::kSharedMemory, wanted, flags_of(attachments), [&] {
      fill(snapshot, attachments, segment);
      if (wanted.mode & SHM_LOCKED) lock_shared_memory(wanted.id);
    });
  }
  for (const pb::SemaphoreSet& set : objects.semaphores())
    make_if_planned(IpcKind::kSemaphores, object_of(set), 0,
                    [&] { set_semaphores(set.permissions().id(), values_of(set)); });
  for (const pb::SystemVMessageQueue& queue : objects.message_queues())
    make_if_planned(IpcKind::kMessages, object_of(queue), 0, [&] {
      fill_queue(queue.permissions().id(), messages_of(queue), queue.maximum_bytes());
    });
}

MadeSystemV::~MadeSystemV() {
  for (const Made& made : made_) remove_ipc_if_there(made.kind, made.id);
}

// ---- Attaching them -----------------------------------------------------------------------------

namespace {

bool may_write(const pb::Vma& vma) {
  return has_flag(vma, "mw");
}

// What is left of one call of shmat(2), as far as mappings tell.
struct Attaching {
  uint64_t segment = 0, base = 0;  // where it begins, or would
  bool writable = false;

  auto operator<=>(const Attaching&) const = default;
};

uint64_t up(uint64_t value, const pb::Vma& vma) {
  const uint64_t unit = std::max<uint64_t>(vma.page_size(), kPageSize);
  return (value + unit - 1) / unit * unit;
}

void protect(const pb::Vma& vma, Seed& seed) {
  const uint32_t attached = PROT_READ | (may_write(vma) ? PROT_WRITE : 0);
  if (vma.protection() != attached)
    seed.add("protect shared memory", SYS_mprotect, {vma.start(), size_of(vma), vma.protection()});
}

void attach(const Attaching& what, uint64_t address, Seed& seed) {
  seed.add(fmt::format("attach {} at {:#x}",
                       ipc_name(IpcKind::kSharedMemory, static_cast<int>(what.segment)), address),
           SYS_shmat, {what.segment, address, what.writable ? uint64_t{0} : SHM_RDONLY});
}

}  // namespace

bool is_attached(const RestorePlan& plan, const pb::Process& process, const pb::Vma& vma) {
  return segment_of(plan, process, vma) != nullptr;
}

uint64_t room_to_attach(const Snapshot& snapshot, const RestorePlan& plan) {
  uint64_t room = 0;
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Vma& vma : process.mappings())
      if (const auto* segment = segment_of(plan, process, vma);
          segment && size_of(vma) != up(segment->size(), vma))
        room = std::max(room, up(segment->size(), vma) + vma.page_size());
  return room;
}

namespace {

using Attachings = std::map<Attaching, std::vector<const pb::Vma*>>;

// Parts of one are attached where there is room for the whole, and moved: shmdt(2) finds them all
// the same.
void attach_all(const RestorePlan& plan, const pb::Process& process, const Attachings& attachings,
                Seed& seed) {
  for (const auto& [what, parts] : attachings) {
    const uint64_t size = up(segment_of(plan, process, *parts.front())->size(), *parts.front()),
                   room = up(plan.system_v.room, *parts.front());
    const bool is_whole = parts.size() == 1 && size_of(*parts.front()) == size;
    attach(what, is_whole ? what.base : room, seed);
    for (const pb::Vma* part : parts) {
      if (!is_whole)
        seed.add("move a part of shared memory", SYS_mremap,
                 {room + part->offset(), size_of(*part), size_of(*part),
                  MREMAP_MAYMOVE | MREMAP_FIXED, part->start()});
      protect(*part, seed);
    }
    if (!is_whole) seed.add("give up the rest of shared memory", SYS_munmap, {room, size});
  }
}

}  // namespace

void attach_segments(const RestoreContext& context, const pb::Process& process, Seed& seed) {
  std::map<uint64_t, Attachings> spaces;
  for (const pb::Vma& vma : process.mappings())
    if (const Origin origin = origin_of(context.plan, process, vma); origin.segment)
      spaces[origin.space][{vma.inode(), vma.start() - vma.offset(), may_write(vma)}].push_back(
          &vma);
  const uint64_t own = ipc_of(process);
  for (const auto& [space, attachings] : spaces) {
    if (space != own) enter_ipc(context, process, space, seed);
    attach_all(context.plan, process, attachings, seed);
    if (space != own) enter_ipc(context, process, own, seed);
  }
}

void remove_segments_again(const RestoreContext& context) {
  const Snapshot& snapshot = context.snapshot;
  const RestorePlan& plan = context.plan;
  const auto rmid = uint64_t{IPC_RMID};
  for (const auto& [space, planned] : plan.system_v.spaces) {
    for (const auto& [id, segment] : planned.segments) {
      if (!segment->removed()) continue;
      if (is_new_ipc(plan, space))
        context.seed_of(*member_of(snapshot, "ipc", space))
            .call("remove shared memory", SYS_shmctl, {id, rmid, 0});
      else
        remove_ipc_if_there(IpcKind::kSharedMemory, static_cast<int>(id));
    }
  }
}

}  // namespace snapgdb
