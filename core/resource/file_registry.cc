#include "core/resource/file_registry.h"

#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/image/libxxhash.h"
#include "core/linux/mapped_file.h"

namespace snapgdb {
namespace {

// Executables and libraries are always embedded: without them a debugger is blind. Other mapped
// files (locales, caches) are when they are small; big data is only described.
constexpr uint64_t kMaxDataFile = uint64_t{64} << 20;
constexpr uint64_t kMaxDebugFile = uint64_t{512} << 20;

bool is_elf(const Fd& fd) {
  char magic[SELFMAG];
  return ::pread(fd.get(), magic, sizeof magic, 0) == sizeof magic &&
         std::memcmp(magic, ELFMAG, SELFMAG) == 0;
}

using ElfPointer = std::unique_ptr<Elf, int (*)(Elf*)>;

// The NT_GNU_BUILD_ID note among the program headers; "" if there is none.
std::string build_id_of(const Fd& fd) {
  ::elf_version(EV_CURRENT);
  const ElfPointer elf(::elf_begin(fd.get(), ELF_C_READ_MMAP, nullptr), ::elf_end);
  size_t count = 0;
  if (!elf || ::elf_getphdrnum(elf.get(), &count) != 0) return "";
  for (size_t i = 0; i < count; ++i) {
    GElf_Phdr header;
    if (!::gelf_getphdr(elf.get(), static_cast<int>(i), &header) || header.p_type != PT_NOTE)
      continue;
    Elf_Data* data = ::elf_getdata_rawchunk(elf.get(), static_cast<int64_t>(header.p_offset),
                                            header.p_filesz, ELF_T_NHDR);
    size_t at = 0, name = 0, description = 0;
    GElf_Nhdr note;
    while (data && (at = ::gelf_getnote(data, at, &note, &name, &description)) > 0) {
      const auto* bytes = static_cast<const char*>(data->d_buf);
      if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == sizeof "GNU" &&
          std::memcmp(bytes + name, "GNU", sizeof "GNU") == 0)
        return std::string(bytes + description, note.n_descsz);
    }
  }
  return "";
}

// The file with its debug information that .gnu_debuglink names; "" if there is none.
std::string debug_link_of(const Fd& fd) {
  ::elf_version(EV_CURRENT);
  const ElfPointer elf(::elf_begin(fd.get(), ELF_C_READ_MMAP, nullptr), ::elf_end);
  size_t names = 0;
  if (!elf || ::elf_getshdrstrndx(elf.get(), &names) != 0) return "";
  for (Elf_Scn* section = nullptr; (section = ::elf_nextscn(elf.get(), section));) {
    GElf_Shdr header;
    if (!::gelf_getshdr(section, &header)) return "";
    const char* name = ::elf_strptr(elf.get(), names, header.sh_name);
    if (!name || std::string_view(name) != ".gnu_debuglink") continue;
    const Elf_Data* data = ::elf_rawdata(section, nullptr);
    if (!data || !data->d_buf) return "";
    const auto* text = static_cast<const char*>(data->d_buf);
    const std::string link(text, ::strnlen(text, data->d_size));
    return link.find('/') == link.npos ? link : "";
  }
  return "";
}

constexpr const char* kDebugDirectory = "/usr/lib/debug";

// Where gdb looks ("Separate Debug Files" in its manual), as the process would see it.
std::vector<std::string> places_by_build_id(const std::string& build_id) {
  if (build_id.size() < 2) return {};
  const std::string hex = to_hex(build_id);
  return {
      fmt::format("{}/.build-id/{}/{}.debug", kDebugDirectory, hex.substr(0, 2), hex.substr(2))};
}

std::vector<std::string> places_by_link(const std::string& path, const std::string& link) {
  if (link.empty() || !path.starts_with('/')) return {};
  const std::string directory = path.substr(0, path.rfind('/'));
  return {fmt::format("{}/{}", directory, link), fmt::format("{}/.debug/{}", directory, link),
          fmt::format("{}{}/{}", kDebugDirectory, directory, link)};
}

bool is_executable(const Fd& fd) {
  Elf64_Ehdr header;
  if (::pread(fd.get(), &header, sizeof header, 0) != sizeof header) return false;
  return header.e_type == ET_EXEC || header.e_type == ET_DYN;
}

int64_t mtime_of(const struct stat& status) {
  return status.st_mtim.tv_sec * int64_t{1'000'000'000} + status.st_mtim.tv_nsec;
}

bool is_unchanged(const Fd& fd, const pb::FileRecord& record) {
  struct stat status {};
  return fd.valid() && ::fstat(fd.get(), &status) == 0 && record.mtime_ns() == mtime_of(status) &&
         record.size() == static_cast<uint64_t>(status.st_size);
}

}  // namespace

void FileRegistry::begin_snapshot() {
  const std::lock_guard lock(mutex_);
  looked_at_.clear();
}

uint32_t FileRegistry::id_for(const ProcDirectory& proc, const ProcMapping& mapping) {
  const Key key{mapping.device_major, mapping.device_minor, mapping.inode};
  const std::lock_guard lock(mutex_);
  const auto known = ids_.find(key);
  if (known != ids_.end() && looked_at_.contains(key)) return known->second;
  Fd fd = open_mapped_file(proc, mapping);
  looked_at_.insert(key);
  if (known != ids_.end() && known->second && is_unchanged(fd, entries_[known->second - 1].record))
    return known->second;
  // A file that lives in memory, or has no name any more, may be gone or changed by the time that
  // files are written; code is not (the kernel refuses writes to what runs, and it is kept open).
  const bool lasting = fd.valid() && (is_elf(fd) || (!mapping.deleted && !is_memory_file(fd)));
  if (!lasting) return ids_[key] = 0;
  Entry entry = describe(std::move(fd), proc, mapping.name);
  entry.record.set_deleted(mapping.deleted);
  entry.record.set_id(static_cast<uint32_t>(entries_.size() + 1));
  entries_.push_back(std::move(entry));
  return ids_[key] = entries_.back().record.id();
}

FileRegistry::Entry FileRegistry::describe(Fd fd, const ProcDirectory& proc, std::string path) {
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) throw_errno("cannot look at {}", path);
  Entry entry;
  entry.elf = is_elf(fd);
  pb::FileRecord& record = entry.record;
  record.set_path(std::move(path));
  record.set_size(static_cast<uint64_t>(status.st_size));
  record.set_mode(status.st_mode);
  record.set_mtime_ns(mtime_of(status));
  record.set_device(status.st_dev);
  record.set_inode(status.st_ino);
  record.set_role(entry.elf && is_executable(fd) ? pb::FILE_LIBRARY : pb::FILE_DATA);
  record.set_embedded(entry.elf || record.size() <= kMaxDataFile);
  if (!record.embedded())
    record.set_why_not_embedded(fmt::format("a data file of {}; only files up to {} are carried",
                                            human_size(record.size()), human_size(kMaxDataFile)));
  entry.fd = std::move(fd);
  entry.root = std::make_shared<const Fd>(proc.open("root", O_PATH | O_DIRECTORY));
  return entry;
}

void FileRegistry::expect_new_files(PageWriter& pages) {
  const size_t mapped = entries_.size();
  for (size_t i = written_; i < mapped; ++i)
    if (entries_[i].elf) entries_[i].record.set_build_id(build_id_of(entries_[i].fd));
  for (size_t i = written_; i < mapped; ++i) add_debug_file(entries_[i]);
  for (size_t i = written_; i < entries_.size(); ++i)
    if (entries_[i].record.embedded()) pages.expect(entries_[i].record.size());
}

void FileRegistry::write_new_files(ImageWriter& image, PageWriter& pages,
                                   std::vector<pb::Missing>& missing) {
  for (; written_ < entries_.size(); ++written_)
    if (entries_[written_].record.id()) write(entries_[written_], image, pages, missing);
}

void FileRegistry::add_debug_file(const Entry& of) {
  const std::string& build_id = of.record.build_id();
  if (!of.elf || (!build_id.empty() && debug_ids_.contains(build_id))) return;
  if (!add_debug_file(of, places_by_build_id(build_id)))
    add_debug_file(of, places_by_link(of.record.path(), debug_link_of(of.fd)));
}

bool FileRegistry::add_debug_file(const Entry& of, const std::vector<std::string>& places) {
  const std::string& build_id = of.record.build_id();
  for (const std::string& place : places) {
    Fd fd(::openat(of.root->get(), place.c_str() + 1, O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    struct stat status {};
    if (place == of.record.path() || !fd.valid() || ::fstat(fd.get(), &status) != 0 ||
        !S_ISREG(status.st_mode) || !is_elf(fd))
      continue;
    const std::string own = build_id_of(fd);
    if (!own.empty() && !build_id.empty() && own != build_id) continue;
    add_debug_file(of, place, std::move(fd), status);
    return true;
  }
  return false;
}

void FileRegistry::add_debug_file(const Entry& of, const std::string& path, Fd fd,
                                  const struct stat& status) {
  const std::string& build_id = of.record.build_id();
  Entry entry;
  entry.elf = true;
  entry.fd = std::move(fd);
  entry.record.set_path(path);
  entry.record.set_role(pb::FILE_DEBUG);
  entry.record.set_build_id(build_id);
  entry.record.set_size(static_cast<uint64_t>(status.st_size));
  entry.record.set_mode(status.st_mode);
  entry.record.set_mtime_ns(mtime_of(status));
  entry.record.set_embedded(entry.record.size() <= kMaxDebugFile);
  if (!entry.record.embedded())
    entry.record.set_why_not_embedded(fmt::format("debug information of {}; the limit is {}",
                                                  human_size(entry.record.size()),
                                                  human_size(kMaxDebugFile)));
  entry.record.set_id(static_cast<uint32_t>(entries_.size() + 1));
  if (!build_id.empty()) debug_ids_.insert(build_id);
  entries_.push_back(std::move(entry));
}

void FileRegistry::write(Entry& entry, ImageWriter& image, PageWriter& pages,
                         std::vector<pb::Missing>& missing) {
  pb::FileRecord& record = entry.record;
  const auto lacks = [&](std::string why) {
    record.set_embedded(false);
    record.set_why_not_embedded(why);
    pb::Missing& missed = missing.emplace_back();
    missed.set_resource("file " + record.path());
    missed.set_reason(std::move(why));
  };
  if (record.embedded()) {
    const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> hash(::XXH3_createState(),
                                                                               ::XXH3_freeState);
    ::XXH3_128bits_reset(hash.get());
    Extents content;
    Bytes buffer(size_t{1} << 20);
    uint64_t done = 0;
    while (const size_t n = pread_upto(entry.fd.get(), buffer, done, record.path())) {
      ::XXH3_128bits_update(hash.get(), buffer.data(), n);
      const uint64_t whole = page_up(n);
      std::ranges::fill(std::span(buffer).subspan(n, whole - n), std::byte{0});
      pages.add(content, done, std::span(buffer).first(whole));
      done += n;
    }
    pages.flush();
    struct stat status {};
    ::fstat(entry.fd.get(), &status);
    if (done == record.size() && mtime_of(status) == record.mtime_ns()) {
      XXH128_canonical_t canonical;
      ::XXH128_canonicalFromHash(&canonical, ::XXH3_128bits_digest(hash.get()));
      record.set_hash(canonical.digest, sizeof canonical.digest);
      *record.mutable_content() = content.to_record();
    } else {
      lacks("it changed while it was being read");
    }
  }
  image.add(kFileChunk, record);
  record.clear_content();
  entry.fd.reset();
  entry.root.reset();
}

}  // namespace snapgdb
