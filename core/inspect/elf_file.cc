#include "core/inspect/elf_file.h"

#include <elf.h>

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/base/strings.h"

namespace snapgdb {
namespace {

// The kernel takes as many as fit into 64 KiB; linkers write about ten, four or five of them
// PT_LOAD.
constexpr size_t kMaxProgramHeaders = 1024;
constexpr size_t kMaxSegments = 64;
// More than the largest debug files in use, less than what takes a workstation down.
constexpr uint64_t kMaxFileSize = uint64_t{6} << 30;

bool usable(const Elf64_Ehdr& header) {
  return std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 &&
         header.e_ident[EI_CLASS] == ELFCLASS64 && header.e_ident[EI_DATA] == ELFDATA2LSB &&
         header.e_machine == EM_X86_64 && (header.e_type == ET_EXEC || header.e_type == ET_DYN) &&
         header.e_phentsize == sizeof(Elf64_Phdr) && header.e_phnum <= kMaxProgramHeaders;
}

bool overflows(const Elf64_Phdr& header) {
  constexpr uint64_t kMax = UINT64_MAX - 2 * kPageSize;  // room for rounding up
  return header.p_memsz > kMax - std::min(header.p_vaddr, kMax) ||
         header.p_filesz > kMax - std::min(header.p_offset, kMax) || header.p_vaddr > kMax ||
         header.p_offset > kMax || header.p_filesz > header.p_memsz;
}

ElfSegment to_segment(const Elf64_Phdr& header) {
  return {header.p_vaddr, header.p_offset, header.p_filesz,
          header.p_memsz, header.p_align,  (header.p_flags & PF_X) != 0};
}

std::string cannot_be_read(const pb::FileRecord& file, std::string_view why) {
  return fmt::format("{} cannot be read: {}", printable(file.path()), why);
}

}  // namespace

// Where headers are read from: bytes in hand, or a file of the image.
class ElfFile::Source {
 public:
  explicit Source(std::string_view bytes) : bytes_(bytes) {}
  Source(const Snapshot& snapshot, const pb::FileRecord& record)
      : snapshot_(&snapshot), record_(&record) {}

  bool read(uint64_t offset, std::span<std::byte> out) const {
    if (snapshot_) return snapshot_->read_file(*record_, offset, out) == out.size();
    if (offset > bytes_.size() || out.size() > bytes_.size() - offset) return false;
    std::memcpy(out.data(), bytes_.data() + offset, out.size());
    return true;
  }

 private:
  std::string_view bytes_;
  const Snapshot* snapshot_ = nullptr;
  const pb::FileRecord* record_ = nullptr;
};

bool ElfFile::parse_headers(const Source& source) {
  Elf64_Ehdr header;
  if (!source.read(0, std::as_writable_bytes(std::span(&header, 1))) || !usable(header))
    return false;
  std::vector<Elf64_Phdr> program_headers(header.e_phnum);
  if (!source.read(header.e_phoff, std::as_writable_bytes(std::span(program_headers))))
    return false;
  for (const Elf64_Phdr& program_header : program_headers) {
    if (program_header.p_type != PT_LOAD) continue;
    if (overflows(program_header)) return false;
    segments_.push_back(to_segment(program_header));
  }
  entry_ = header.e_entry;
  fixed_address_ = header.e_type == ET_EXEC;
  return !segments_.empty() && segments_.size() <= kMaxSegments;
}

std::unique_ptr<ElfFile> ElfFile::open(const Snapshot& snapshot, const pb::FileRecord& record) {
  std::unique_ptr<ElfFile> file(new ElfFile);
  file->snapshot_ = &snapshot;
  file->record_ = &record;
  return file->parse_headers(Source(snapshot, record)) ? std::move(file) : nullptr;
}

std::unique_ptr<ElfFile> ElfFile::of_bytes(std::string bytes) {
  std::unique_ptr<ElfFile> file(new ElfFile);
  file->bytes_ = std::move(bytes);
  return file->parse_headers(Source(file->bytes_)) ? std::move(file) : nullptr;
}

std::string_view ElfFile::bytes() {
  if (bytes_.empty() && problem_.empty()) {
    try {
      if (record_->size() > kMaxFileSize)
        throw Error(fmt::format("cannot read {}", record_->path()), "it is too large");
      uint64_t lost = 0;
      bytes_ = snapshot_->file_contents(*record_, &lost);
      if (lost)
        problem_ = fmt::format("{} bytes of {} are lost, for the image is damaged", lost,
                               printable(record_->path()));
    } catch (const Error& error) {
      problem_ = cannot_be_read(*record_, error.why());
    } catch (const std::exception&) {
      problem_ = cannot_be_read(*record_, "memory ran out");
    }
  }
  return bytes_;
}

uint64_t ElfFile::end_address() const {
  uint64_t end = 0;
  for (const ElfSegment& segment : segments_)
    end = std::max(end, segment.address + segment.memory_size);
  return end;
}

std::string empty_elf(uint16_t type) {
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = type;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_ehsize = sizeof header;
  header.e_shentsize = sizeof(Elf64_Shdr);
  return {reinterpret_cast<const char*>(&header), sizeof header};
}

ElfFile* ElfFiles::file(uint32_t id) {
  const auto [entry, is_new] = files_.try_emplace(id);
  const pb::FileRecord* record = is_new ? snapshot_.file(id) : nullptr;
  if (record && record->embedded()) {
    try {
      entry->second = ElfFile::open(snapshot_, *record);
    } catch (const Error& error) {  // a damaged page: as good as not there
      not_opened_.push_back(cannot_be_read(*record, error.why()));
    }
  }
  return entry->second.get();
}

ElfFile* ElfFiles::in_memory(std::string bytes) {
  const auto [entry, is_new] = in_memory_.try_emplace(std::move(bytes));
  if (is_new) entry->second = ElfFile::of_bytes(entry->first);
  return entry->second.get();
}

std::vector<std::string> ElfFiles::problems() const {
  std::vector<std::string> problems = not_opened_;
  for (const auto& [id, file] : files_)
    if (file && !file->problem().empty()) problems.push_back(file->problem());
  return problems;
}

}  // namespace snapgdb
