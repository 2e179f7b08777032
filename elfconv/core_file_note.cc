// NT_FILE, from fs/binfmt_elf.c, fill_files_note. All numbers are unsigned 64-bit:
//
//   count, page size
//   count × (start address, end address, offset in the file in pages)
//   count × name, each ended by a zero byte
//
// A debugger reads from the named file what the core lacks. So nothing is named here whose bytes
// are not in that file: neither a deleted file (there may be another of its name by now; and gdb
// warns of each that it cannot open) nor memory that differs from the file and was not captured.
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

bool is_file(const pb::Vma& vma) {
  return !vma.deleted() && vma.name().starts_with('/') && vma.start() < vma.end();
}

// The parts of a mapping that are in the core or in the file.
void add_known_parts(const pb::Vma& vma, std::span<const MissingMemory> missing,
                     std::vector<MappedFile>& files) {
  const std::string_view name = std::string_view(vma.name()).substr(0, vma.name().find('\0'));
  uint64_t at = vma.start();
  const auto add = [&](uint64_t end) {
    if (at < end) files.push_back({at, end, vma.offset() + (at - vma.start()), name});
  };
  auto gap = std::ranges::lower_bound(missing, vma.start(), {}, &MissingMemory::address);
  for (; gap != missing.end() && gap->address < vma.end(); ++gap) {
    if (gap->in_file) continue;
    add(gap->address);
    at = gap->end();
  }
  add(vma.end());
}

void append_number(std::string& note, uint64_t number) {
  note.append(reinterpret_cast<const char*>(&number), sizeof number);
}

}  // namespace

std::string file_note(const pb::Process& process, const CoreMemory& memory) {
  std::vector<MappedFile> files;
  for (const pb::Vma& vma : process.mappings())
    if (is_file(vma)) add_known_parts(vma, memory.missing, files);
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
