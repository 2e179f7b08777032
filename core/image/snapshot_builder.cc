#include "core/image/snapshot_builder.h"

#include <sys/mman.h>
#include <sys/user.h>

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/image/general_registers.h"

namespace snapgdb {

class SnapshotBuilder::MemoryPages : public PageStore {
 public:
  void read_page(uint64_t ordinal, std::span<std::byte, kPageSize> out) const override {
    if (ordinal >= bytes.size() / kPageSize)
      throw Error("cannot read a page", fmt::format("there is no page {}", ordinal));
    std::memcpy(out.data(), bytes.data() + ordinal * kPageSize, kPageSize);
  }

  std::string bytes;
};

SnapshotBuilder::ProcessBuilder::ProcessBuilder(SnapshotBuilder& owner, int32_t pid)
    : owner_(owner) {
  record_.set_pid(pid);
  record_.set_group(pid);
  record_.set_session(pid);
  record_.add_ns_pids(pid);
  record_.set_state("S");
  record_.set_address_space(static_cast<uint32_t>(pid));
}

SnapshotBuilder::ProcessBuilder& SnapshotBuilder::ProcessBuilder::thread(int32_t tid, uint64_t rip,
                                                                         uint64_t rsp) {
  user_regs_struct registers{};
  registers.rip = rip;
  registers.rsp = rsp;
  registers.orig_rax = UINT64_MAX;
  pb::Thread& thread = *record_.add_threads();
  thread.set_tid(tid);
  thread.add_ns_tids(tid);
  thread.set_state("S");
  thread.set_registers(&registers, sizeof registers);
  return *this;
}

SnapshotBuilder::ProcessBuilder& SnapshotBuilder::ProcessBuilder::in_call(uint64_t number,
                                                                          uint64_t first) {
  user_regs_struct registers = general_registers(last_thread());
  registers.cs = 0x33;  // 64-bit code
  registers.orig_rax = number;
  registers.rdi = first;
  last_thread().set_registers(&registers, sizeof registers);
  return *this;
}

pb::Vma& SnapshotBuilder::ProcessBuilder::map(uint64_t address, uint64_t size, uint32_t protection,
                                              std::string_view name) {
  pb::Vma& vma = *record_.add_mappings();
  vma.set_start(address);
  vma.set_end(address + page_up(size));
  vma.set_protection(protection);
  vma.set_name(std::string(name));
  vma.set_page_size(kPageSize);
  return vma;
}

SnapshotBuilder::ProcessBuilder& SnapshotBuilder::ProcessBuilder::memory(uint64_t address,
                                                                         std::string_view content,
                                                                         uint32_t protection,
                                                                         std::string_view name) {
  map(address, content.size(), protection, name);
  extents_.append(owner_.store(address, content));
  return *this;
}

SnapshotBuilder::ProcessBuilder& SnapshotBuilder::ProcessBuilder::zeros(uint64_t address,
                                                                        uint64_t size) {
  map(address, size, PROT_READ | PROT_WRITE, "");
  extents_.append({address, page_up(size), pb::SOURCE_ZERO, 0, 0});
  return *this;
}

SnapshotBuilder::ProcessBuilder& SnapshotBuilder::ProcessBuilder::unavailable(
    uint64_t address, uint64_t size, std::string_view reason, KeptBy kept_by) {
  map(address, size, PROT_READ, "");
  extents_.append_missing(address, page_up(size), reason, kept_by);
  return *this;
}

SnapshotBuilder::ProcessBuilder& SnapshotBuilder::ProcessBuilder::mapped_file(
    uint64_t address, uint64_t size, uint32_t file, uint64_t offset, uint32_t protection) {
  pb::Vma& vma = map(address, size, protection, owner_.files_.at(file - 1).path());
  vma.set_file(file);
  vma.set_offset(offset);
  vma.set_inode(file);
  extents_.append({address, page_up(size), pb::SOURCE_FILE, offset, file});
  return *this;
}

SnapshotBuilder::SnapshotBuilder() : pages_(std::make_shared<MemoryPages>()) {
  record_.set_sequence(1);
  record_.mutable_host()->set_page_size(kPageSize);
  record_.mutable_host()->set_clock_ticks_per_second(100);
}

SnapshotBuilder::~SnapshotBuilder() = default;

SnapshotBuilder::ProcessBuilder& SnapshotBuilder::process(int32_t pid, int32_t parent) {
  if (processes_.empty()) {
    record_.set_root_pid(pid);
    record_.set_focus_pid(pid);
    record_.set_focus_tid(pid);
  }
  processes_.push_back(std::unique_ptr<ProcessBuilder>(new ProcessBuilder(*this, pid)));
  processes_.back()->record().set_parent(parent);
  return *processes_.back();
}

uint32_t SnapshotBuilder::file(std::string_view path, std::string_view content, pb::FileRole role,
                               std::string_view build_id) {
  Extents extents;
  if (!content.empty()) extents.append(store(0, content));
  pb::FileRecord& file = files_.emplace_back();
  file.set_id(static_cast<uint32_t>(files_.size()));
  file.set_path(std::string(path));
  file.set_role(role);
  file.set_size(content.size());
  file.set_mode(0100644);
  file.set_build_id(std::string(build_id));
  file.set_embedded(true);
  *file.mutable_content() = extents.to_record();
  return file.id();
}

Extent SnapshotBuilder::store(uint64_t address, std::string_view content) {
  const uint64_t ordinal = pages_->bytes.size() / kPageSize;
  const uint64_t size = page_up(content.size());
  pages_->bytes.append(content);
  pages_->bytes.resize((ordinal * kPageSize) + size);
  return {address, size, pb::SOURCE_STORED, ordinal, 0};
}

Snapshot::Contents SnapshotBuilder::contents() const {
  Snapshot::Contents contents;
  contents.record = record_;
  contents.files = files_;
  contents.pages = std::make_shared<MemoryPages>(*pages_);
  for (const auto& process : processes_) {
    contents.processes.push_back(process->record_);
    contents.address_spaces.emplace(process->record_.address_space(), process->extents_);
  }
  return contents;
}

std::shared_ptr<const Snapshot> SnapshotBuilder::build() const {
  return std::make_shared<const Snapshot>(contents());
}

}  // namespace snapgdb
