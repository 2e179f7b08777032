#include "gdbstub/image_files.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "core/base/strings.h"
#include "gdbstub/procfs.h"

namespace snapgdb::gdbstub {
namespace {

class EmbeddedFile : public File {
 public:
  EmbeddedFile(std::shared_ptr<const Snapshot> snapshot, const pb::FileRecord& record)
      : snapshot_(std::move(snapshot)), record_(record) {}

  size_t read(uint64_t offset, std::span<std::byte> out) const override {
    return snapshot_->read_file(record_, offset, out);
  }

  FileStatus status() const override {
    constexpr int64_t kNanoseconds = 1'000'000'000;
    return {record_.device(), record_.inode(), record_.mode() | S_IFREG, record_.size(),
            record_.mtime_ns() / kNanoseconds};
  }

 private:
  std::shared_ptr<const Snapshot> snapshot_;
  const pb::FileRecord& record_;
};

class TextFile : public File {
 public:
  explicit TextFile(std::string content) : content_(std::move(content)) {}

  size_t read(uint64_t offset, std::span<std::byte> out) const override {
    if (offset >= content_.size()) return 0;
    const size_t n = std::min<uint64_t>(out.size(), content_.size() - offset);
    std::memcpy(out.data(), content_.data() + offset, n);
    return n;
  }

  FileStatus status() const override { return {0, 0, S_IFREG | 0444, content_.size(), 0}; }

 private:
  std::string content_;
};

// Debuggers look for separate debug files below a directory of their own choice, by build-id:
// …/.build-id/ab/cdef.debug.
std::optional<std::string> build_id_in(std::string_view path) {
  constexpr std::string_view kDirectory = "/.build-id/", kSuffix = ".debug";
  const size_t at = path.find(kDirectory);
  if (at == std::string_view::npos || !path.ends_with(kSuffix)) return std::nullopt;
  path.remove_prefix(at + kDirectory.size());
  path.remove_suffix(kSuffix.size());
  if (path.size() < 3 || path[2] != '/') return std::nullopt;
  return from_hex(std::string(path.substr(0, 2)).append(path.substr(3)));
}

}  // namespace

std::unique_ptr<File> ImageFiles::open(Pid seen_by, std::string_view path) const {
  const std::string resolved = resolve_self(path, seen_by.value);
  if (auto content = proc_file(*snapshot_, resolved))
    return std::make_unique<TextFile>(*std::move(content));
  const pb::FileRecord* record = find(seen_by, path);
  return record ? std::make_unique<EmbeddedFile>(snapshot_, *record) : nullptr;
}

std::optional<std::string> ImageFiles::read_link(Pid seen_by, std::string_view path) const {
  return proc_link(*snapshot_, resolve_self(path, seen_by.value));
}

// What the process has mapped comes first: the same path may lead to another file in another mount
// namespace, or after an upgrade.
const pb::FileRecord* ImageFiles::find(Pid seen_by, std::string_view path) const {
  if (const pb::FileRecord* record = mapped_by(seen_by, path)) return record;
  if (const auto build_id = build_id_in(path))
    if (const pb::FileRecord* record = snapshot_->debug_file(*build_id)) return record;
  return snapshot_->embedded_file(path);
}

const pb::FileRecord* ImageFiles::mapped_by(Pid pid, std::string_view path) const {
  const pb::Process* process = snapshot_->process(pid.value);
  if (!process) return nullptr;
  const auto wanted = [&](uint32_t id) {
    const pb::FileRecord* record = snapshot_->file(id);
    return record && record->embedded() && record->path() == path ? record : nullptr;
  };
  if (const pb::FileRecord* record = wanted(process->executable_file())) return record;
  for (const pb::Vma& vma : process->mappings())
    if (const pb::FileRecord* record = wanted(vma.file())) return record;
  return nullptr;
}

}  // namespace snapgdb::gdbstub
