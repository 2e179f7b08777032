#include "elfconv/file_export.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "core/base/error.h"
#include "core/base/fd.h"
#include "core/base/strings.h"
#include "core/image/link_map.h"
#include "core/image/output_file.h"

namespace snapgdb {
namespace {

constexpr size_t kBlock = size_t{4} << 20;
constexpr size_t kMaxDepth = 64;

using Names = std::vector<std::string>;

// The components of a path from the image, without those that lead elsewhere.
Names safe_components(std::string_view path) {
  Names names;
  for (const std::string_view component : split(path, '/')) {
    if (component.empty() || component == "." || component == "..") continue;
    std::string& name = names.emplace_back(component);
    std::ranges::replace(name, '\0', '_');
  }
  return names;
}

std::string joined(const Names& names) {
  std::string path;
  for (const std::string& name : names) path += (path.empty() ? "" : "/") + name;
  return path;
}

// A directory that files are put into by names that are not trusted.
class Sysroot {
 public:
  explicit Sysroot(const std::string& directory) {
    if (::mkdir(directory.c_str(), 0777) != 0 && errno != EEXIST)
      throw_errno("cannot create {}", directory);
    root_ = Fd(::open(directory.c_str(), O_DIRECTORY | O_RDONLY | O_CLOEXEC));
    if (!root_.valid()) throw_errno("cannot open {}", directory);
  }

  // Throws Error if anything but a regular file is in the way.
  void write(const Names& names, const Snapshot& snapshot, const pb::FileRecord& record) const {
    const Fd parent = make_parents(names);
    check_free(parent, names);
    // Through the descriptor: another path to it might lead through links.
    const std::string path = fmt::format("/proc/self/fd/{}/{}", parent.get(), names.back());
    OutputFile file = OutputFile::create(path);
    copy_content(snapshot, record, file.fd(), joined(names));
    file.commit(OutputFile::Sync::kLater);
  }

  // A second name for a file that is there, in place of a file from an earlier export.
  void link(const Names& from, const Names& to) const {
    const Fd from_parent = make_parents(from), to_parent = make_parents(to);
    check_free(to_parent, to);
    ::unlinkat(to_parent.get(), to.back().c_str(), 0);
    if (::linkat(from_parent.get(), from.back().c_str(), to_parent.get(), to.back().c_str(), 0) !=
        0)
      throw_errno("cannot create {}", joined(to));
  }

 private:
  // The directory of the last name, made as needed, one step at a time so that no link is followed.
  Fd make_parents(const Names& names) const {
    if (names.empty()) throw Error("cannot create a file", "it has no name");
    if (names.size() > kMaxDepth) throw Error("cannot create a file", "its path is too deep");
    Fd at(::fcntl(root_.get(), F_DUPFD_CLOEXEC, 3));
    for (const std::string& name : std::span(names).first(names.size() - 1)) {
      ::mkdirat(at.get(), name.c_str(), 0777);
      at = Fd(::openat(at.get(), name.c_str(), O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC));
      if (!at.valid()) throw_errno("cannot create the directory {}", name);
    }
    return at;
  }

  static void check_free(const Fd& parent, const Names& names) {
    struct stat status;
    if (::fstatat(parent.get(), names.back().c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
        !S_ISREG(status.st_mode))
      throw Error(fmt::format("cannot create {}", joined(names)),
                  "something else has that name already");
  }

  // Zeros become holes.
  static void copy_content(const Snapshot& snapshot, const pb::FileRecord& record, int fd,
                           const std::string& name) {
    if (::ftruncate(fd, static_cast<off_t>(record.size())) != 0)
      throw_errno("cannot write {}", name);
    std::vector<std::byte> buffer(kBlock);
    const Extents content = Extents::from_record(record.content());
    if (content.end() < record.size())
      throw Error(fmt::format("cannot write {}", name), "its content is not all there");
    for (const Extent& extent : content.all()) {
      if (extent.source == pb::SOURCE_ZERO) continue;
      const uint64_t end = std::min(extent.end(), record.size());
      for (uint64_t at = extent.start; at < end;) {
        const auto block = std::span(buffer).first(std::min<uint64_t>(kBlock, end - at));
        const size_t n = snapshot.read_file(record, at, block);
        pwrite_all(fd, block.first(n), at, name);
        at += n;
      }
    }
  }

  Fd root_;
};

class Exporter {
 public:
  Exporter(const Snapshot& snapshot, const std::string& directory)
      : snapshot_(snapshot), sysroot_(directory) {}

  ExportedFiles run() {
    for (const bool deleted : {false, true})  // a file that still has its name comes first
      for (const pb::FileRecord& file : snapshot_.files())
        if (file.embedded() && !file.nameless() && file.deleted() == deleted) write(file);
    for (const pb::Process& process : snapshot_.processes())
      for (const LoadedObject& object :
           read_link_map(ProcessMemory(snapshot_, process), process.auxv()))
        link(process, object);
    return std::move(exported_);
  }

 private:
  void write(const pb::FileRecord& file) {
    Names names = safe_components(file.path());
    if (!names.empty() && taken_.contains(joined(names))) {
      // Two files of one path: an upgraded one, or one in another mount namespace.
      names.back() += fmt::format(".{}", file.id());
      lacks(fmt::format("{}: another file has its path, so it is exported as {}",
                        printable(file.path()), printable(joined(names))));
    }
    try {
      sysroot_.write(names, snapshot_, file);
      taken_.insert(joined(names));
      exported_.paths.emplace(file.id(), joined(names));
      exported_.size += file.size();
      ++exported_.count;
    } catch (const Error& error) {
      lacks(fmt::format("{}: {}", printable(file.path()), printable(error.what())));
    }
  }

  // The name under which the dynamic linker loaded a file may lead through symbolic links:
  // debuggers ask for that one.
  void link(const pb::Process& process, const LoadedObject& object) {
    const pb::Vma* mapping = snapshot_.mapping(process, object.dynamic);
    const auto file = exported_.paths.find(mapping ? mapping->file() : 0);
    const Names names = safe_components(object.linker_name);
    if (file == exported_.paths.end() || names.empty() || !object.linker_name.starts_with('/'))
      return;
    if (!taken_.insert(joined(names)).second) return;
    try {
      sysroot_.link(safe_components(file->second), names);
    } catch (const Error& error) {
      lacks(fmt::format("{}: {}", printable(object.linker_name), printable(error.what())));
    }
  }

  void lacks(std::string line) { exported_.missing.push_back(std::move(line)); }

  const Snapshot& snapshot_;
  Sysroot sysroot_;
  std::set<std::string> taken_;
  ExportedFiles exported_;
};

}  // namespace

ExportedFiles export_files(const Snapshot& snapshot, const std::string& directory) {
  return Exporter(snapshot, directory).run();
}

}  // namespace snapgdb
