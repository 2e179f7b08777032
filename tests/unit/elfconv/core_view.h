#pragma once

#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <stdlib.h>
#include <sys/procfs.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/base/fd.h"

namespace snapgdb::test {

// A directory that is gone when the test is over.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "elfconv-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  // Names below it, directories excluded.
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path_))
      if (!entry.is_directory()) names.push_back(entry.path().lexically_relative(path_).string());
    return names;
  }

 private:
  std::string path_;
};

struct Note {
  std::string owner;
  uint32_t type;
  std::string bytes;

  template <typename Struct>
  Struct as() const {
    if (bytes.size() != sizeof(Struct)) throw std::runtime_error("a note of another size");
    Struct value;
    std::memcpy(&value, bytes.data(), sizeof value);
    return value;
  }
};

// What a debugger sees in a core, read with libelf.
class CoreView {
 public:
  explicit CoreView(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY)) {
    elf_version(EV_CURRENT);
    elf_.reset(elf_begin(fd_.get(), ELF_C_READ, nullptr));
    if (!elf_ || elf_kind(elf_.get()) != ELF_K_ELF) throw std::runtime_error("not an ELF file");
    size_t count = 0;
    if (elf_getphdrnum(elf_.get(), &count) != 0) throw std::runtime_error("no program headers");
    segments_.resize(count);
    for (size_t i = 0; i < count; ++i) gelf_getphdr(elf_.get(), static_cast<int>(i), &segments_[i]);
    read_notes();
  }

  GElf_Ehdr header() const {
    GElf_Ehdr header;
    gelf_getehdr(elf_.get(), &header);
    return header;
  }
  const std::vector<GElf_Phdr>& segments() const { return segments_; }
  std::vector<GElf_Phdr> loads() const {
    std::vector<GElf_Phdr> loads;
    for (const GElf_Phdr& segment : segments_)
      if (segment.p_type == PT_LOAD) loads.push_back(segment);
    return loads;
  }
  const std::vector<Note>& notes() const { return notes_; }

  // "PRSTATUS 10" starts the notes of thread 10: for comparing orders.
  std::vector<uint32_t> note_types() const {
    std::vector<uint32_t> types;
    for (const Note& note : notes_) types.push_back(note.type);
    return types;
  }
  std::vector<elf_prstatus> threads() const {
    std::vector<elf_prstatus> threads;
    for (const Note& note : notes_)
      if (note.type == NT_PRSTATUS) threads.push_back(note.as<elf_prstatus>());
    return threads;
  }
  std::optional<Note> note(uint32_t type) const {
    for (const Note& note : notes_)
      if (note.type == type) return note;
    return std::nullopt;
  }

  // nullopt: not all of the range is in the core.
  std::optional<std::string> memory(uint64_t address, size_t size) const {
    std::string bytes;
    for (const GElf_Phdr& load : segments_) {
      const uint64_t at = address + bytes.size();
      if (load.p_type != PT_LOAD || at < load.p_vaddr || at - load.p_vaddr >= load.p_filesz)
        continue;
      const size_t n = std::min(size - bytes.size(), load.p_filesz - (at - load.p_vaddr));
      std::string part(n, '?');
      const auto offset = static_cast<off_t>(load.p_offset + (at - load.p_vaddr));
      if (::pread(fd_.get(), part.data(), n, offset) != static_cast<ssize_t>(n)) break;
      bytes += part;
      if (bytes.size() == size) return bytes;
    }
    return std::nullopt;
  }

 private:
  void read_notes() {
    for (const GElf_Phdr& segment : segments_) {
      if (segment.p_type != PT_NOTE) continue;
      Elf_Data* data = elf_getdata_rawchunk(elf_.get(), static_cast<int64_t>(segment.p_offset),
                                            segment.p_filesz, ELF_T_NHDR);
      GElf_Nhdr note;
      size_t name = 0, descriptor = 0;
      for (size_t at = 0; data && (at = gelf_getnote(data, at, &note, &name, &descriptor)) > 0;) {
        const auto* bytes = static_cast<const char*>(data->d_buf);
        notes_.push_back({bytes + name, note.n_type, {bytes + descriptor, note.n_descsz}});
      }
    }
  }

  Fd fd_;
  std::unique_ptr<Elf, int (*)(Elf*)> elf_{nullptr, elf_end};
  std::vector<GElf_Phdr> segments_;
  std::vector<Note> notes_;
};

}  // namespace snapgdb::test
