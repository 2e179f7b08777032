#include "gdbstub/live/live_files.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

#include "core/base/fd.h"
#include "core/linux/procfs.h"

namespace snapgdb::gdbstub {
namespace {

class OpenedFile : public File {
 public:
  explicit OpenedFile(Fd fd) : fd_(std::move(fd)) {}
  size_t read(uint64_t offset, std::span<std::byte> out) const override {
    return pread_upto(fd_.get(), out, offset, "a file of the tree");
  }
  FileStatus status() const override {
    struct stat status {};
    ::fstat(fd_.get(), &status);
    return {status.st_dev, status.st_ino, status.st_mode, static_cast<uint64_t>(status.st_size),
            status.st_mtim.tv_sec};
  }

 private:
  Fd fd_;
};

// Symbolic links lead to where they lead for the process (openat2(2), Linux 5.6).
Fd open_below(Pid real, std::string_view path, uint64_t flags) {
  const auto proc = ProcDirectory::of_if_alive(real);
  if (!proc) return {};
  const Fd root = proc->open("root", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (!root.valid()) return {};
  open_how how{.flags = flags | O_CLOEXEC, .mode = 0, .resolve = RESOLVE_IN_ROOT};
  return Fd(static_cast<int>(
      ::syscall(SYS_openat2, root.get(), std::string(path).c_str(), &how, sizeof how)));
}

}  // namespace

std::unique_ptr<File> LiveFiles::open(Pid seen_by, std::string_view path) const {
  const auto real = real_pid_(seen_by);
  // Not waiting for somebody to open the other side of a FIFO.
  Fd fd = real ? open_below(*real, path, O_RDONLY | O_NONBLOCK) : Fd();
  if (!fd.valid()) return nullptr;
  return std::make_unique<OpenedFile>(std::move(fd));
}

std::optional<std::string> LiveFiles::read_link(Pid seen_by, std::string_view path) const {
  const auto real = real_pid_(seen_by);
  const Fd link = real ? open_below(*real, path, O_PATH | O_NOFOLLOW) : Fd();
  std::string target(PATH_MAX, '\0');
  const ssize_t n = link.valid() ? ::readlinkat(link.get(), "", target.data(), target.size()) : -1;
  if (n < 0) return std::nullopt;
  target.resize(static_cast<size_t>(n));
  return target;
}

}  // namespace snapgdb::gdbstub
