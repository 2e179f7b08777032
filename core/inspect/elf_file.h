#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/image/snapshot.h"

namespace snapgdb {

// A PT_LOAD program header: what of the file belongs where in memory.
struct ElfSegment {
  uint64_t address = 0;  // as the file has it, before it is moved to where it was loaded
  uint64_t offset = 0;
  uint64_t file_size = 0;
  uint64_t memory_size = 0;
  uint64_t alignment = 0;
  bool executable = false;
};

// An x86-64 executable or shared object, or the debug file of one. Its bytes are read when they are
// first asked for and kept once for everybody (libdw and LLVM read them in place, for every process
// that has the file mapped). Not thread-safe.
class ElfFile {
 public:
  // Both return nullptr if that is not such a file, or one whose program headers contradict
  // themselves. Only the headers are read here; a snapshot must outlive its files.
  static std::unique_ptr<ElfFile> open(const Snapshot& snapshot, const pb::FileRecord& record);
  static std::unique_ptr<ElfFile> of_bytes(std::string bytes);

  // Empty if the content cannot be read, with zeros for what a salvaged image has lost of it:
  // problem() then says so.
  std::string_view bytes();
  const std::string& problem() const { return problem_; }

  std::span<const ElfSegment> segments() const { return segments_; }  // never empty
  uint64_t entry() const { return entry_; }  // where it begins to run, as an address of the file
  bool fixed_address() const {
    return fixed_address_;
  }                              // ET_EXEC: loaded where it says, or nowhere
  uint64_t end_address() const;  // behind the last segment

 private:
  class Source;
  ElfFile() = default;
  bool parse_headers(const Source& source);

  const Snapshot* snapshot_ = nullptr;      // with record_: where the bytes come from,
  const pb::FileRecord* record_ = nullptr;  // until they are here
  std::string bytes_;
  std::string problem_;
  std::vector<ElfSegment> segments_;
  uint64_t entry_ = 0;
  bool fixed_address_ = false;
};

// A header for x86-64 and nothing else, of type ET_*.
std::string empty_elf(uint16_t type);

// The ELF files of a snapshot, each opened once. Not thread-safe.
class ElfFiles {
 public:
  // The snapshot must outlive this.
  explicit ElfFiles(const Snapshot& snapshot) : snapshot_(snapshot) {}

  // nullptr: no such file, not embedded, damaged, or not an ELF file for x86-64.
  ElfFile* file(uint32_t id);
  // A file that exists in memory only (the vDSO); equal bytes are one file.
  ElfFile* in_memory(std::string bytes);
  // What could not be read, or not all of it, so far: each tells of a file and why.
  std::vector<std::string> problems() const;

 private:
  const Snapshot& snapshot_;
  std::map<uint32_t, std::unique_ptr<ElfFile>> files_;
  std::map<std::string, std::unique_ptr<ElfFile>> in_memory_;
  std::vector<std::string> not_opened_;
};

}  // namespace snapgdb
