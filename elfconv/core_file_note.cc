// NT_FILE, from fs/binfmt_elf.c, fill_files_note. All numbers are unsigned 64-bit:
//
//   count, page size
//   count × (start address, end address, offset in the file in pages)
//   count × name, each ended by a zero byte
//
// Unlike the kernel we do not name every file. gdb opens each of them, warns if it cannot, and
// reads from it what the core lacks. So there are only programs and libraries, whose names
// debuggers need to find symbols, and what the core indeed lacks; and never a deleted file (there
// may be another of its name by now), nor memory that differs from its file and was not captured.
#include "elfconv/core_file_note.h"

#include <algorithm>
#include <string_view>

namespace snapgdb {
namespace {

struct MappedFile {
  uint64_t start;
  uint64_t end;
  uint64_t offset;
  std::string_view name;
};

bool is_program(const Snapshot& snapshot, const pb::Vma& vma) {
  const pb::FileRecord* file = snapshot.file(vma.file());
  return file && (file->role() == pb::FILE_EXECUTABLE || file->role() == pb::FILE_LIBRARY);
}

using Missing = std::span<const MissingMemory>;

Missing missing_of(const pb::Vma& vma, Missing all) {
  const auto first = std::ranges::lower_bound(all, vma.start(), {}, &MissingMemory::address);
  const auto last = std::ranges::lower_bound(all, vma.end(), {}, &MissingMemory::address);
  return {first, last};
}

bool is_named(const Snapshot& snapshot, const pb::Vma& vma, Missing missing) {
  if (vma.deleted() || !vma.name().starts_with('/')) return false;
  return is_program(snapshot, vma) || std::ranges::any_of(missing, [](const MissingMemory& range) {
           return range.in_file && range.lost;
         });
}

// The parts of a mapping that are in the core or in the file.
void add_known_parts(const pb::Vma& vma, Missing missing, std::vector<MappedFile>& files) {
  const std::string_view name = std::string_view(vma.name()).substr(0, vma.name().find('\0'));
  uint64_t at = vma.start();
  const auto add = [&](uint64_t end) {
    if (at < end) files.push_back({at, end, vma.offset() + (at - vma.start()), name});
  };
  for (const MissingMemory& gap : missing) {
    if (gap.in_file) continue;
    add(gap.address);
    at = gap.end();
  }
  add(vma.end());
}

void append_number(std::string& note, uint64_t number) {
  note.append(reinterpret_cast<const char*>(&number), sizeof number);
}

}  // namespace

std::string file_note(const Snapshot& snapshot, const pb::Process& process,
                      const CoreMemory& memory) {
  std::vector<MappedFile> files;
  for (const pb::Vma& vma : process.mappings()) {
    const Missing missing = missing_of(vma, memory.missing);
    if (is_named(snapshot, vma, missing)) add_known_parts(vma, missing, files);
  }
  if (files.empty()) return "";

  std::string note;
  append_number(note, files.size());
  append_number(note, kPageSize);
  for (const MappedFile& file : files) {
    append_number(note, file.start);
    append_number(note, file.end);
    append_number(note, file.offset / kPageSize);
  }
  for (const MappedFile& file : files) {
    note += file.name;
    note += '\0';
  }
  return note;
}

}  // namespace snapgdb
