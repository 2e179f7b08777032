#include "core/image/output_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "core/base/error.h"

namespace snapgdb {
namespace {

std::string directory_of(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

// A name in the same directory, so that rename(2) stays on one file system.
std::string temporary_name(const std::string& path) {
  const auto name = std::filesystem::path(path).filename().string();
  return fmt::format("{}/.{}.{}.tmp", directory_of(path), name, ::getpid());
}

}  // namespace

OutputFile OutputFile::create(const std::string& path) {
  if (path == "-") {
    OutputFile out("standard output", Fd(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)));
    if (!out.fd_.valid()) throw_errno("cannot write to standard output");
    out.in_place_ = true;
    return out;
  }
  struct stat status;
  const bool exists = ::stat(path.c_str(), &status) == 0;
  if (exists && S_ISDIR(status.st_mode)) throw SystemError("cannot write " + path, EISDIR);
  if (exists && !S_ISREG(status.st_mode)) {
    OutputFile out(path, Fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC)));
    if (!out.fd_.valid()) throw_errno("cannot write {}", path);
    out.in_place_ = true;
    return out;
  }
  OutputFile out(path,
                 Fd(::open(directory_of(path).c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)));
  if (!out.fd_.valid() && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT)) {
    // Without O_TMPFILE: NFS, FUSE, kernels before 3.11 (EISDIR; ENOENT is the directory itself).
    out.temporary_ = temporary_name(path);
    out.fd_ = Fd(::open(out.temporary_.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600));
    if (!out.fd_.valid()) out.temporary_.clear();
  }
  if (!out.fd_.valid()) throw_errno("cannot create {}", path);
  return out;
}

OutputFile::~OutputFile() {
  if (fd_.valid() && !in_place_ && !temporary_.empty()) ::unlink(temporary_.c_str());
}

void OutputFile::commit(Sync sync) {
  // EINVAL, EROFS: a pipe or a device has nothing to sync.
  if (sync == Sync::kNow && ::fsync(fd_.get()) != 0 && errno != EINVAL && errno != EROFS)
    throw_errno("cannot write {}", path_);
  if (!in_place_) link_into_place();
  in_place_ = true;
}

void OutputFile::link_into_place() {
  if (temporary_.empty()) {
    const std::string self = fmt::format("/proc/self/fd/{}", fd_.get());
    if (::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, path_.c_str(), AT_SYMLINK_FOLLOW) == 0) return;
    if (errno != EEXIST) throw_errno("cannot create {}", path_);
    temporary_ = temporary_name(path_);  // linkat(2) does not replace, rename(2) does
    if (::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, temporary_.c_str(), AT_SYMLINK_FOLLOW) != 0)
      throw_errno("cannot create {}", temporary_);
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) throw_errno("cannot create {}", path_);
}

}  // namespace snapgdb
