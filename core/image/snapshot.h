#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/image/extents.h"
#include "core/image/snapshot.pb.h"

namespace snapgdb {

// Where a snapshot's pages come from: an image file, or a builder's memory.
class PageStore {
 public:
  virtual ~PageStore() = default;
  // Copies the page of that ordinal. Callable from several threads at once. Throws Error if the
  // page is not there or its bytes are damaged.
  virtual void read_page(uint64_t ordinal, std::span<std::byte, kPageSize> out) const = 0;
  // The same of as many pages, in order of their ordinals, as fit into `out`; whole ones.
  virtual void read_pages(uint64_t first, std::span<std::byte> out) const {
    for (size_t done = 0; done < out.size(); done += kPageSize)
      read_page(first++, out.subspan(done).first<kPageSize>());
  }
  // Shows so many of them to `visit`, piece by piece in order of their ordinals; without a copy
  // where that can be.
  using Visit = std::function<void(std::span<const std::byte> pages)>;
  virtual void visit_pages(uint64_t first, uint64_t count, const Visit& visit) const {
    std::array<std::byte, kPageSize> page;
    for (; count > 0; ++first, --count) {
      read_page(first, page);
      visit(page);
    }
  }
};

// The number of a descriptor that is in nobody's table: a message has it (Process.in_flight).
inline constexpr int32_t kInFlight = -1;

// Those of a process, and those on their way to it.
void for_each_descriptor(const pb::Process& process, const auto& visit) {
  for (const pb::Descriptor& descriptor : process.descriptors()) visit(descriptor);
  for (const pb::Descriptor& descriptor : process.in_flight()) visit(descriptor);
}

// A run of a process's memory that is of one kind. What lies in a file is looked for there.
struct ContentRun {
  enum class Kind {
    kStored,
    kZeros,  // known to read as zeros
    kMissing,
    kBeyondEnd,  // of the file it lies in: the program could not read it either, mmap(2)
  };
  Kind kind = Kind::kStored;
  uint64_t start = 0;
  uint64_t end = 0;
  bool in_file = false;  // it equals a part of a file, whether the image has that or not
  // Of the last two kinds:
  std::string reason = {};
  KeptBy kept_by = KeptBy::kNobody;

  uint64_t size() const { return end - start; }
  bool readable() const { return kind == Kind::kStored || kind == Kind::kZeros; }
};

// One moment of one process tree: immutable, random access, safe to share between threads. Whoever
// consumes it cannot tell whether it came from a file, a live tree or a test's builder.
class Snapshot {
 public:
  struct Contents {
    pb::SnapshotRecord record;
    std::vector<pb::Process> processes;  // parents before children, the root first
    std::map<uint32_t, Extents> address_spaces;
    std::map<uint32_t, pb::AddressSpace> space_records;  // without their extents
    std::vector<pb::FileRecord> files;
    // By id: the content of files of which pages were lost, with those missing.
    std::map<uint32_t, Extents> salvaged_files;
    int lost = 0;  // how many of record.missing(), the last ones, a damaged image has lost
    bool has_lost_processes = false;
    std::shared_ptr<const PageStore> pages;
  };

  // Throws Error where the records contradict each other (two processes of one pid, a thread
  // without registers, a reference to nothing).
  explicit Snapshot(Contents contents);
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;

  const pb::SnapshotRecord& record() const { return contents_.record; }
  std::span<const pb::Process> processes() const { return contents_.processes; }
  const pb::Process& root() const;
  const pb::Process* process(int32_t pid) const;  // nullptr: no such process

  // ---- What was lost with the part of a salvaged image that is not whole ----
  std::span<const pb::Missing* const> lost() const {
    const auto& all = contents_.record.missing();
    return {all.data() + (all.size() - contents_.lost), static_cast<size_t>(contents_.lost)};
  }
  bool has_lost_processes() const { return contents_.has_lost_processes; }

  // ---- Memory ----
  // Reads as many bytes from `address` on as there are, up to out.size(); returns how many. 0: the
  // first byte is not mapped or not captured (missing_reason tells). Never reads as zeros what is
  // not known to be zero.
  size_t read_memory(const pb::Process& process, uint64_t address, std::span<std::byte> out) const;
  // Why the byte at `address` cannot be read; "" if it can.
  std::string missing_reason(const pb::Process& process, uint64_t address) const;
  // Shows what there is of [start, end), ascending; nothing where no extent is.
  using VisitRun = std::function<void(const ContentRun& run)>;
  void visit_memory(const pb::Process& process, uint64_t start, uint64_t end,
                    const VisitRun& visit) const;
  // Memory that is not in the image, by reason.
  struct Lack {
    std::string reason;
    KeptBy kept_by = KeptBy::kNobody;
    uint64_t bytes = 0;
  };
  std::vector<Lack> missing_memory(const pb::Process& process) const;
  const Extents& extents(const pb::Process& process) const;
  // What its extents of SOURCE_STORED refer to.
  const PageStore& pages() const { return *contents_.pages; }
  // How its memory was secured; without extents.
  const pb::AddressSpace& address_space(const pb::Process& process) const;
  // How many of the bytes in [start, end) can be read.
  uint64_t captured_bytes(const pb::Process& process, uint64_t start, uint64_t end) const;
  const pb::Vma* mapping(const pb::Process& process, uint64_t address) const;

  // ---- Files of the image ----
  std::span<const pb::FileRecord> files() const { return contents_.files; }
  const pb::FileRecord* file(uint32_t id) const;  // nullptr: 0, or no such file
  // An embedded file by the path the captured process knew it by; a version that is still on disk
  // is preferred to one that was deleted.
  const pb::FileRecord* embedded_file(std::string_view path) const;
  const pb::FileRecord* debug_file(std::string_view build_id) const;
  // Like pread(2), and as much as was asked for, up to its end. Throws Error where some of it is
  // lost or damaged. Precondition: file.embedded().
  size_t read_file(const pb::FileRecord& file, uint64_t offset, std::span<std::byte> out) const;
  // The same of all of it. With `lost`, what a salvaged image has lost of it reads as zeros, and is
  // counted there (in bytes).
  std::string file_contents(const pb::FileRecord& file, uint64_t* lost = nullptr) const;
  // How much of it a salvaged image has lost.
  uint64_t lost_bytes(const pb::FileRecord& file) const;

 private:
  size_t read_extent(const Extent& extent, uint64_t offset, std::span<std::byte> out) const;
  size_t read_extents(const Extents& extents, uint64_t address, std::span<std::byte> out) const;
  size_t read_content(const pb::FileRecord& file, uint64_t offset, std::span<std::byte> out) const;
  void visit_file(const Extent& extent, uint64_t start, uint64_t end, const VisitRun& visit) const;
  void check() const;

  Contents contents_;
  std::map<int32_t, const pb::Process*> by_pid_;
  std::map<uint32_t, const pb::FileRecord*> by_file_id_;
  std::map<uint32_t, Extents> file_extents_;
};

}  // namespace snapgdb
