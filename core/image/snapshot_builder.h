#pragma once

#include <memory>
#include <string_view>

#include "core/image/snapshot.h"

namespace snapgdb {

// A Snapshot made by hand, for tests: say what is different from an ordinary idle process.
//
//   SnapshotBuilder builder;
//   auto& init = builder.process(10).thread(10).thread(11);
//   init.memory(0x1000, "hello", PROT_READ).unavailable(0x2000, 4096, "refused");
//   auto snapshot = builder.build();
class SnapshotBuilder {
 public:
  class ProcessBuilder {
   public:
    // Adds a thread with zero registers but for rip and rsp; returns its record to be changed.
    ProcessBuilder& thread(int32_t tid, uint64_t rip = 0, uint64_t rsp = 0);
    // The last thread was in that system call, with that first argument.
    ProcessBuilder& in_call(uint64_t number, uint64_t first = 0);
    // Maps the pages that hold `content` (filled up with zeros) at a page-aligned address.
    ProcessBuilder& memory(uint64_t address, std::string_view content, uint32_t protection,
                           std::string_view name = "");
    ProcessBuilder& zeros(uint64_t address, uint64_t size);
    ProcessBuilder& unavailable(uint64_t address, uint64_t size, std::string_view reason,
                                KeptBy kept_by = KeptBy::kNobody);
    // Maps `size` bytes of an embedded file (see SnapshotBuilder::file).
    ProcessBuilder& mapped_file(uint64_t address, uint64_t size, uint32_t file, uint64_t offset,
                                uint32_t protection);

    pb::Process& record() { return record_; }
    pb::Thread& last_thread() { return *record_.mutable_threads()->rbegin(); }

   private:
    friend class SnapshotBuilder;
    ProcessBuilder(SnapshotBuilder& owner, int32_t pid);
    pb::Vma& map(uint64_t address, uint64_t size, uint32_t protection, std::string_view name);

    SnapshotBuilder& owner_;
    pb::Process record_;
    Extents extents_;
  };

  SnapshotBuilder();
  ~SnapshotBuilder();

  // The first one is the root. Mappings must be added in ascending order of address.
  ProcessBuilder& process(int32_t pid, int32_t parent = 1);
  // Embeds a file; returns its id.
  uint32_t file(std::string_view path, std::string_view content, pb::FileRole role = pb::FILE_DATA,
                std::string_view build_id = "");
  pb::SnapshotRecord& record() { return record_; }

  std::shared_ptr<const Snapshot> build() const;
  // For a snapshot that differs in something for which there is no word here.
  Snapshot::Contents contents() const;

 private:
  class MemoryPages;
  // Appends `content` to the page store; returns the extent that shows it at `address`.
  Extent store(uint64_t address, std::string_view content);

  pb::SnapshotRecord record_;
  std::vector<std::unique_ptr<ProcessBuilder>> processes_;
  std::vector<pb::FileRecord> files_;
  std::shared_ptr<MemoryPages> pages_;
};

}  // namespace snapgdb
