#include "core/resource/nameless.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/mapped_file.h"
#include "core/resource/attributes.h"
#include "core/resource/memory.h"
#include "core/resource/restorer.h"
#include "core/resource/watched_path.h"

namespace snapgdb {
namespace {

// What is stashed of one file (a fraction of the stash), and what is written while the tree is
// stopped of all: about half a second. More is read when the tree runs, and lost if it changes.
constexpr uint64_t kMaxStashed = uint64_t{16} << 20;
constexpr uint64_t kMaxCopied = uint64_t{1} << 30;

constexpr const char* kSecret = "hidden from everybody but the program (memfd_secret)";

uint64_t huge_page_size_of(const Fd& fd) {
  struct statfs status {};
  const bool huge = ::fstatfs(fd.get(), &status) == 0 && status.f_type == HUGETLBFS_MAGIC;
  return huge ? static_cast<uint64_t>(status.f_bsize) : 0;
}

bool is_same(const timespec& a, const timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

pb::FileRecord describe(const Fd& fd, const struct stat& status, const std::string& path) {
  pb::FileRecord record;
  record.set_path(path);
  record.set_size(static_cast<uint64_t>(status.st_size));
  record.set_mode(status.st_mode);
  record.set_mtime_ns(status.st_mtim.tv_sec * int64_t{1'000'000'000} + status.st_mtim.tv_nsec);
  record.set_device(status.st_dev);
  record.set_inode(status.st_ino);
  record.set_owner(status.st_uid);
  record.set_group(status.st_gid);
  record.set_huge_page_size(huge_page_size_of(fd));
  record.set_deleted(true);
  record.set_nameless(true);
  record.set_embedded(true);
  add_attributes(fmt::format("/proc/self/fd/{}", fd.get()), false, *record.mutable_attributes());
  return record;
}

void keep_out(pb::FileRecord& record, std::string why) {
  record.set_embedded(false);
  record.set_why_not_embedded(std::move(why));
}

size_t read_padded(const Fd& fd, uint64_t offset, std::span<std::byte> out,
                   const std::string& path) {
  const size_t n = pread_upto(fd.get(), out, offset, path);
  std::ranges::fill(out.subspan(n), std::byte{0});
  return out.size();
}

}  // namespace

uint32_t NamelessFiles::id_for(const Fd& file, const std::string& path) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode) || status.st_nlink != 0 ||
      path.starts_with(kSystemVName))
    return 0;
  const std::lock_guard lock(mutex_);
  uint32_t& id = by_inode_[{status.st_dev, status.st_ino}];
  if (id) return id;
  Fd kept(::fcntl(file.get(), F_DUPFD_CLOEXEC, 0));
  if (!kept.valid()) throw_errno("cannot duplicate a descriptor");
  id = files_.reserve_id();
  add(id, std::move(kept), status, path);
  return id;
}

uint32_t NamelessFiles::id_for_copy(Fd copy, const std::string& path) {
  struct stat status {};
  if (::fstat(copy.get(), &status) != 0) throw_errno("cannot look at a copy of {}", path);
  const std::lock_guard lock(mutex_);
  const uint32_t id = files_.reserve_id();
  add(id, std::move(copy), status, path).is_ours = true;
  return id;
}

uint32_t NamelessFiles::id_for_named(Fd file, const std::string& path) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) throw_errno("cannot look at {}", printable(path));
  const std::lock_guard lock(mutex_);
  const uint32_t id = files_.reserve_id();
  Entry& entry = add(id, std::move(file), status, path);
  entry.is_named = true;
  entry.record.set_deleted(false), entry.record.set_nameless(false);
  return id;
}

NamelessFiles::Entry& NamelessFiles::add(uint32_t id, Fd file, const struct stat& status,
                                         const std::string& path) {
  Entry& entry = entries_[id];
  entry.record = describe(file, status, path);
  entry.record.set_id(id);
  entry.fd = std::move(file);
  entry.changed = status.st_ctim;
  return entry;
}

// ---- While the tree is stopped ------------------------------------------------------------------

// Of a mapping whose file was out of reach, but which somebody else had open. The number of a
// System V segment may be the inode of another file, too.
void NamelessFiles::find_ids(pb::Process& process) const {
  for (pb::Vma& vma : *process.mutable_mappings()) {
    if (vma.nameless() || vma.inode() == 0 || vma.file() != 0 ||
        vma.name().starts_with(kSystemVName))
      continue;
    const auto found = by_inode_.find({device_of(vma), vma.inode()});
    if (found != by_inode_.end()) vma.set_nameless(found->second);
  }
}

std::map<uint32_t, NamelessFiles::Use> NamelessFiles::uses_in(std::vector<pb::Process>& processes,
                                                              const MemoryOptions& options) {
  std::map<uint32_t, Use> uses;
  for (pb::Process& process : processes) {
    find_ids(process);
    for_each_descriptor(process, [&](const pb::Descriptor& descriptor) {
      if (!descriptor.nameless()) return;
      Use& use = uses[descriptor.nameless()];
      use.is_used = use.is_open = true;
      use.may_change |= (descriptor.flags() & O_ACCMODE) != O_RDONLY &&
                        !(descriptor.memfd().seals() & F_SEAL_WRITE);
    });
    for (const pb::Vma& vma : process.mappings()) {
      if (!vma.nameless()) continue;
      Use& use = uses[vma.nameless()];
      use.is_used = true;
      use.kept_out |= has_flag(vma, "dd") && !options.include_dontdump;
      if (!vma.shared()) continue;
      use.is_written_as_memory |= has_flag(vma, "mw");
      use.may_change |= has_flag(vma, "mw");
      uint64_t& end = use.shown[vma.offset()];
      end = std::max(end, vma.offset() + (vma.end() - vma.start()));
    }
  }
  return uses;
}

// Then its content comes with the mappings. Not so where a restore would lack something: the size
// of what nobody has open, and the time to write, before it is mapped, into what is sealed against
// that or consists of huge pages, which write(2) does not know.
bool NamelessFiles::is_shown_as_a_whole(const Entry& entry, const Use& use) {
  const uint64_t size = entry.record.size();
  if (!use.may_change || entry.record.huge_page_size() || size == 0) return false;
  if (!use.is_open && size % kPageSize) return false;
  uint64_t covered = 0;
  for (const auto& [start, end] : use.shown)
    if (start <= covered) covered = std::max(covered, end);
  return covered >= size;
}

// Holes are found by the page: file systems may have smaller blocks.
void NamelessFiles::find_runs(Entry& entry) {
  const uint64_t end = page_up(entry.record.size());
  for (uint64_t at = 0; at < end;) {
    const uint64_t data = std::max(at, page_down(next_data(entry.fd, at, end)));
    if (data > at) entry.runs.push_back({at, data, false});
    if (data == end) break;
    at = std::max(next_hole(entry.fd, data, end), data + kPageSize);
    entry.runs.push_back({data, at, true});
  }
}

void NamelessFiles::secure(Entry& entry, const Use& use, Stash& stash, uint64_t& left_to_copy) {
  if (!use.may_change) return;
  find_runs(entry);
  uint64_t bytes = 0;
  for (const Run& run : entry.runs)
    if (run.has_data) bytes += run.end - run.start;
  const auto room = bytes <= kMaxStashed ? stash.take(bytes) : std::nullopt;
  if (!room) {
    if (bytes > left_to_copy && use.is_written_as_memory)  // which leaves no trace in its times
      throw Error("", fmt::format("{} that are mapped writably; up to {} are copied in all",
                                  human_size(bytes), human_size(kMaxCopied)));
    if (bytes > left_to_copy) return entry.runs.clear();
    left_to_copy -= bytes;
    entry.when = Entry::When::kStopped;
    return;
  }
  uint64_t position = *room;
  for (Run& run : entry.runs) {
    if (!run.has_data) continue;
    run.in_stash = position;
    read_padded(entry.fd, run.start, stash.at(position, run.end - run.start), entry.record.path());
    position += run.end - run.start;
  }
  entry.when = Entry::When::kStashed;
}

void NamelessFiles::secure(std::vector<pb::Process>& processes, const MemoryOptions& options,
                           Stash& stash) {
  const auto uses = uses_in(processes, options);
  uint64_t left_to_copy = kMaxCopied;
  for (auto& [id, entry] : entries_) {
    const auto known = uses.find(id);
    Use use = known == uses.end() ? Use{} : known->second;
    // Anybody may write to it, also through a mapping, as soon as the tree runs.
    if (entry.is_named) use.is_used = use.may_change = use.is_written_as_memory = true;
    try {
      if (entry.record.path() == "/secretmem")
        keep_out(entry.record, kSecret);
      else if (use.kept_out)
        keep_out(entry.record, std::string(kKeptOutOfDumps));
      else if (!entry.is_ours && !entry.is_named &&
               (!use.is_used || is_shown_as_a_whole(entry, use)))
        entry.when = Entry::When::kForgotten;
      else
        secure(entry, use, stash, left_to_copy);
    } catch (const Error& error) {
      entry.lost = error.why();
    }
  }
  const auto forget_if = [&](auto& user, auto condition) {
    if (user.nameless() && condition(entries_.at(user.nameless()))) user.clear_nameless();
  };
  const auto is_forgotten = [](const Entry& entry) {
    return entry.when == Entry::When::kForgotten;
  };
  // Then what is mapped of it is all there is.
  const auto is_elsewhere = [&](const Entry& entry) {
    return is_forgotten(entry) || !entry.record.embedded() || !entry.lost.empty();
  };
  for (pb::Process& process : processes) {
    for (pb::Descriptor& descriptor : *process.mutable_descriptors())
      forget_if(descriptor, is_forgotten);
    for (pb::Vma& vma : *process.mutable_mappings()) forget_if(vma, is_elsewhere);
  }
  std::erase_if(entries_,
                [](const auto& entry) { return entry.second.when == Entry::When::kForgotten; });
}

void NamelessFiles::copy_what_changes(const Stash& stash, PageWriter& pages) {
  for (auto& [id, entry] : entries_)
    if (entry.when == Entry::When::kStopped) copy(entry, stash, pages);
}

// ---- Into the image -----------------------------------------------------------------------------

void NamelessFiles::copy(Entry& entry, const Stash& stash, PageWriter& pages) {
  Extents& content = entry.content.emplace();
  for (const Run& run : entry.runs) {
    const uint64_t size = run.end - run.start;
    if (!run.has_data) {
      content.append({run.start, size, pb::SOURCE_ZERO, 0, 0});
    } else if (entry.when == Entry::When::kStashed) {
      pages.add(content, run.start, stash.at(run.in_stash, size));
    } else {
      pages.copy(content, run.start, size, [&](uint64_t offset, std::span<std::byte> out) {
        return read_padded(entry.fd, offset, out, entry.record.path());
      });
    }
  }
  pages.flush();
}

void NamelessFiles::write(const Stash& stash, ImageWriter& image, PageWriter& pages,
                          std::vector<pb::Missing>& missing) {
  for (auto& [id, entry] : entries_) {
    try {
      if (!entry.lost.empty()) throw Error("", entry.lost);
      if (entry.when == Entry::When::kLater && entry.record.embedded()) find_runs(entry);
      if (!entry.content && entry.record.embedded()) copy(entry, stash, pages);
      struct stat status {};
      if (::fstat(entry.fd.get(), &status) != 0) throw_errno("cannot look at a removed file");
      if (entry.when == Entry::When::kLater && !is_same(status.st_ctim, entry.changed))
        throw Error("", "it changed while it was being read");
      if (entry.record.embedded()) *entry.record.mutable_content() = entry.content->to_record();
    } catch (const Error& error) {
      keep_out(entry.record, error.why());
      pb::Missing& missed = missing.emplace_back();
      missed.set_resource("content of " + entry.record.path());
      missed.set_reason(error.why());
    }
    image.add(kFileChunk, entry.record);
  }
  entries_.clear();
}

namespace {

std::optional<std::string> name_beside(const ProcDirectory& proc, const struct stat& status,
                                       const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos || path[0] != '/') return std::nullopt;
  const std::string folder = path.substr(0, slash + 1);
  Fd fd = proc.open("root" + folder, O_RDONLY | O_DIRECTORY);
  if (!fd.valid()) return std::nullopt;
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(::fdopendir(fd.get()), ::closedir);
  if (!directory) return std::nullopt;
  const int number = fd.release();  // closedir(3) closes it
  while (const dirent* entry = ::readdir(directory.get())) {
    struct stat other {};
    if (entry->d_ino == status.st_ino &&
        ::fstatat(number, entry->d_name, &other, AT_SYMLINK_NOFOLLOW) == 0 &&
        other.st_dev == status.st_dev && other.st_ino == status.st_ino)
      return folder + entry->d_name;
  }
  return std::nullopt;
}

}  // namespace

bool is_only_mapped(std::string_view path) {
  return path.starts_with("/dev/zero") || path.starts_with(kSystemVName);
}

std::optional<std::string> other_name_of(const ProcDirectory& proc, const struct stat& status,
                                         const std::string& path) {
  if (auto beside = name_beside(proc, status, path)) return beside;
  std::string elsewhere =
      path_of(proc, {.device = status.st_dev, .inode = status.st_ino, .handle = {}});
  return elsewhere.empty() ? std::nullopt : std::optional(std::move(elsewhere));
}

uint32_t nameless_id(CaptureContext& context, const OpenDescriptor& open) {
  if (open.status.st_nlink != 0 || open.target == "/secretmem") return 0;
  const std::string name = fmt::format("fd/{}", open.number);
  const ProcDirectory& proc = open.process.task_proc;
  constexpr int kFlags = O_RDONLY | O_NONBLOCK;
  Fd file = proc.open(name, kFlags | O_NOATIME);
  if (!file.valid()) file = proc.open(name, kFlags);
  if (file.valid()) return context.nameless.id_for(file, open.target);
  context.lacks(open.process.pid, {}, "content of " + open.target, errno_text(errno));
  return 0;
}

void look_behind(CaptureContext& context, const ProcDirectory& proc, ProcMapping& mapping,
                 pb::Vma& vma) {
  const Fd file = open_mapped_file(proc, mapping);
  struct stat status {};
  if (!file.valid() || ::fstat(file.get(), &status) != 0) return;
  if (!is_only_mapped(mapping.name)) vma.set_nameless(context.nameless.id_for(file, mapping.name));
  auto name = status.st_nlink ? other_name_of(proc, status, mapping.name) : std::nullopt;
  if (!name) return;
  mapping.name = std::move(*name);
  mapping.deleted = false;
  vma.set_name(mapping.name);
  vma.set_deleted(false);
}

}  // namespace snapgdb
