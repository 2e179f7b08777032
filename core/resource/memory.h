#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/huge_memory.h"
#include "core/image/extents.h"
#include "core/image/page_writer.h"
#include "core/linux/remote_memory.h"
#include "core/resource/precopy.h"
#include "core/resource/resource.h"

namespace snapgdb {

// The reason why such a page cannot be read, by which a restore knows it.
inline constexpr const char* kGuardPage = "a guard page (MADV_GUARD_INSTALL)";
inline constexpr std::string_view kKeptOutOfDumps =
    "the program keeps it out of dumps (MADV_DONTDUMP)";
inline constexpr const char* kOutOfReach =
    "shared memory, or a view of it, not mapped in at that moment; reading it needs "
    "CAP_CHECKPOINT_RESTORE";

struct MemoryOptions {
  // Also what the program keeps out of dumps (MADV_DONTDUMP).
  bool include_dontdump = false;
};

inline uint64_t size_of(const pb::Vma& vma) {
  return vma.end() - vma.start();
}
// Of its file.
dev_t device_of(const pb::Vma& vma);
// Whether it has that flag of two letters (VmFlags of smaps).
bool has_flag(const pb::Vma& vma, std::string_view flag);

// Whether the kernel shows a file of it. All that is shared has one, and the inode of the first
// System V segment of an ipc namespace is 0 (newseg(), ipc/shm.c: the shmid).
bool has_file(const pb::Vma& vma);
// How the names of System V shared memory begin; the key follows (newseg(), ipc/shm.c).
inline constexpr std::string_view kSystemVName = "/SYSV";
// Also MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB: the file that the kernel shows of it is always
// empty.
bool is_anonymous(const pb::Vma& vma);

// How the content of one address space will be had. Made while the tree is stopped, from the page
// table; carried out by copy_memory when it runs again.
struct MemoryRun {
  uint64_t start = 0, size = 0;
  enum class From {
    kMemory,
    kObject,
    kFile,
    kZero,
    kMissing,
    kCopied,
    kSecured,
    kUntold  // shared memory in no page table: ask_what_is_resident()
  } from = From::kZero;
  uint64_t offset = 0;  // kObject, kFile: bytes; kCopied: page ordinal; kSecured: in the Stash
  uint32_t file = 0;    // kFile
  std::shared_ptr<const Fd> object = {};  // kObject: shared memory, read through its file
  const char* why = "";                   // kMissing
  KeptBy kept_by = KeptBy::kNobody;       // kMissing
  bool in_twin = false;                   // kMemory: a Twin has it too
  RemoteMemory::Way way = RemoteMemory::Way::kFast;  // kMemory

  bool must_be_secured() const { return from == From::kMemory || from == From::kObject; }
};

// Precondition: process.mappings() were captured. `early`: first copies, or nullptr.
std::vector<MemoryRun> plan_memory(const FrozenProcess& frozen, const pb::Process& process,
                                   const FileRegistry& files, const MemoryOptions& options,
                                   const PreCopy* early);

// Bytes of an address space, below which reading them takes less time than making a twin does.
inline constexpr uint64_t kWorthATwin = uint64_t{6} << 20;

// Memory of ours for what has to be read while the tree is stopped. Of fixed size, and in place
// before the stop: fresh pages would cost more than what is read into them.
class Stash {
 public:
  explicit Stash(size_t size) : memory_(size) { memory_.put_in_place(); }

  // Sets so many bytes aside; nullopt: there is no room. May be called by several threads.
  std::optional<uint64_t> take(size_t size);
  std::span<std::byte> at(uint64_t offset, size_t size) {
    return memory_.bytes().subspan(offset, size);
  }
  std::span<const std::byte> at(uint64_t offset, size_t size) const {
    return memory_.bytes().subspan(offset, size);
  }

 private:
  HugeMemory memory_;
  std::mutex mutex_;
  size_t used_ = 0;
};

// Reads every run that `wanted` says into the stash, where it is kSecured from then on. False:
// there is no room for all of them, and nothing was read.
bool secure(std::vector<MemoryRun>& plan, const RemoteMemory& memory, Stash& stash,
            const std::function<bool(const MemoryRun&)>& wanted);

// Reads what the plan says and gives its pages to `pages`; returns what lies where.
Extents copy_memory(const std::vector<MemoryRun>& plan, const RemoteMemory& memory,
                    const Stash& stash, PageWriter& pages);

// Fills in the flags and sizes of mappings that were new at the stop (mappings_now), from smaps as
// it is now; what turns out to be kept out of dumps is taken out of the plan.
void settle_mappings(const ProcDirectory& proc, pb::Process& process, std::vector<MemoryRun>& plan,
                     const MemoryOptions& options);

}  // namespace snapgdb
