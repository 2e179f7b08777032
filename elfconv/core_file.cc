// An ELF core: size, then place, then write. The file (elf(5), core(5)):
//
//   0      ELF header
//   64     program headers: PT_NOTE, then a PT_LOAD for each range of memory, ascending
//   …      one section header, only where the program headers are too many for e_phnum: its
//          sh_info counts them (fs/binfmt_elf.c, fill_extnum_info)
//   …      the notes
//   page   the memory of each PT_LOAD in turn, zeros as holes
//   page   the hole that all large PT_LOADs of nothing but zeros share
//
// Memory that is missing has no PT_LOAD at all. One with p_filesz 0 would say the same, but gdb
// reads it as zeros (gdb/corelow.c, core_target::xfer_partial: "sections with no contents").
#include "elfconv/core_file.h"

#include <gelf.h>
#include <libelf.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>

#include "core/base/error.h"
#include "core/base/fd.h"
#include "core/base/strings.h"
#include "core/image/output_file.h"
#include "elfconv/core_content.h"
#include "elfconv/core_memory.h"
#include "elfconv/core_notes.h"

namespace snapgdb {
namespace {

struct Layout {
  uint64_t notes_offset = 0;
  uint64_t notes_size = 0;
  uint64_t section_header = 0;  // 0: none needed
  uint64_t end = 0;
  size_t program_headers = 0;
};

Layout place(CoreMemory& memory, size_t notes_size) {
  Layout layout;
  layout.program_headers = 1 + memory.segments.size();
  uint64_t at = sizeof(Elf64_Ehdr) + layout.program_headers * sizeof(Elf64_Phdr);
  if (layout.program_headers >= PN_XNUM) {
    layout.section_header = at;
    at += sizeof(Elf64_Shdr);
  }
  layout.notes_offset = at;
  layout.notes_size = notes_size;
  layout.end = place_segments(memory.segments, at + notes_size);
  return layout;
}

[[noreturn]] void throw_elf(std::string_view path) {
  throw Error(fmt::format("cannot write {}", path), elf_errmsg(-1));
}

Elf64_Phdr note_header(const Layout& layout) {
  Elf64_Phdr header{};
  header.p_type = PT_NOTE;
  header.p_offset = layout.notes_offset;
  header.p_filesz = layout.notes_size;
  header.p_align = 4;
  return header;
}

Elf64_Phdr load_header(const LoadSegment& segment) {
  Elf64_Phdr header{};
  header.p_type = PT_LOAD;
  header.p_flags = segment.flags;
  header.p_offset = segment.offset;
  header.p_vaddr = segment.address;
  header.p_filesz = segment.size;
  header.p_memsz = segment.size;
  header.p_align = kPageSize;
  return header;
}

void write_headers(int fd, const Layout& layout, std::span<const LoadSegment> segments,
                   const std::string& path) {
  elf_version(EV_CURRENT);
  const std::unique_ptr<Elf, int (*)(Elf*)> elf(elf_begin(fd, ELF_C_WRITE, nullptr), elf_end);
  if (!elf) throw_elf(path);
  elf_flagelf(elf.get(), ELF_C_SET, ELF_F_LAYOUT);

  Elf64_Ehdr* header = elf64_newehdr(elf.get());
  if (!header) throw_elf(path);
  header->e_ident[EI_DATA] = ELFDATA2LSB;
  header->e_type = ET_CORE;
  header->e_machine = EM_X86_64;
  header->e_version = EV_CURRENT;
  header->e_phoff = sizeof(Elf64_Ehdr);
  header->e_shoff = layout.section_header;

  // Makes section 0, where elf64_newphdr keeps a number too large for e_phnum.
  if (layout.section_header && !elf_getscn(elf.get(), 0)) throw_elf(path);
  Elf64_Phdr* program = elf64_newphdr(elf.get(), layout.program_headers);
  if (!program) throw_elf(path);
  *program++ = note_header(layout);
  for (const LoadSegment& segment : segments) *program++ = load_header(segment);

  if (elf_update(elf.get(), ELF_C_WRITE) < 0) throw_elf(path);
}

// "12.0 MiB of /data/x (3 ranges): not captured", the largest first.
std::vector<std::string> describe(std::span<const MissingMemory> missing) {
  struct Sum {
    uint64_t bytes = 0;
    size_t ranges = 0;
  };
  std::map<std::pair<std::string_view, std::string_view>, Sum> sums;
  for (const MissingMemory& range : missing) {
    if (!range.lost) continue;
    Sum& sum = sums[{range.mapping, range.reason}];
    sum.bytes += range.size;
    ++sum.ranges;
  }
  std::vector<std::pair<uint64_t, std::string>> lines;
  for (const auto& [what, sum] : sums) {
    const auto& [mapping, reason] = what;
    const std::string ranges = sum.ranges == 1 ? "" : fmt::format(" ({} ranges)", sum.ranges);
    lines.emplace_back(
        sum.bytes, fmt::format("{} of {}{}: {}", human_size(sum.bytes),
                               mapping.empty() ? "anonymous memory" : printable(mapping), ranges,
                               printable(reason)));
  }
  std::ranges::stable_sort(lines, std::ranges::greater{}, &std::pair<uint64_t, std::string>::first);
  std::vector<std::string> texts;
  for (auto& line : lines) texts.push_back(std::move(line.second));
  return texts;
}

// A core is written at random offsets, and must never replace a device.
void check_target(const std::string& path) {
  struct stat status;
  if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode))
    throw Error(fmt::format("cannot write {}", path),
                S_ISDIR(status.st_mode) ? "it is a directory" : "it is not a regular file");
}

}  // namespace

std::string why_no_core(const Snapshot& snapshot, const pb::Process& process) {
  if (!threads_to_show(snapshot, process).empty()) return "";
  if (process.state() == "Z" || process.state() == "X")
    return "it has exited and is only waiting for its parent (a zombie): no memory, no registers";
  return "none of its threads has registers in the image";
}

WrittenCore write_core(const Snapshot& snapshot, const pb::Process& process,
                       const std::string& path, const CoreOptions& options) {
  check_target(path);
  CoreMemory memory = divide_memory(snapshot, process, options.salvage);
  CoreNotes notes = build_notes(snapshot, process, memory);
  const Layout layout = place(memory, notes.bytes.size());

  OutputFile file = OutputFile::create(path);
  write_headers(file.fd(), layout, memory.segments, path);
  pwrite_all(file.fd(), std::as_bytes(std::span(notes.bytes)), layout.notes_offset, path);
  const uint64_t copied =
      copy_content(snapshot, process, memory.segments, file.fd(), path, options.progress);
  if (::ftruncate(file.fd(), static_cast<off_t>(layout.end)) != 0)
    throw_errno("cannot write {}", path);
  file.commit(OutputFile::Sync::kLater);

  WrittenCore written{layout.end, layout.notes_offset + layout.notes_size + copied,
                      describe(memory.missing)};
  std::ranges::move(notes.missing, std::back_inserter(written.missing));
  return written;
}

}  // namespace snapgdb
