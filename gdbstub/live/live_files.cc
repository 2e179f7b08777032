#include "gdbstub/live/live_files.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fmt/format.h>

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

// What /proc tells of a process is empty once its first thread has exited: nothing is better. Of
// the others, it is not.
std::string told_by(const LiveFiles::LivingTask& task, Pid pid, std::string_view path) {
  const std::string whole = fmt::format("/proc/{}/", pid.value);
  if (task.tid.value == pid.value || !path.starts_with(whole)) return "";
  return fmt::format("{}task/{}/{}", whole, task.tid.value, path.substr(whole.size()));
}

}  // namespace

std::unique_ptr<File> LiveFiles::open(Pid seen_by, std::string_view path) const {
  const auto task = task_of_(seen_by);
  if (!task) return nullptr;
  constexpr int kFlags = O_RDONLY | O_NONBLOCK;  // nobody need have the other side of a FIFO
  const std::string instead = told_by(*task, seen_by, path);
  Fd fd = open_below(task->real, instead.empty() ? path : instead, kFlags);
  if (!fd.valid()) return nullptr;
  return std::make_unique<OpenedFile>(std::move(fd));
}

std::optional<std::string> LiveFiles::read_link(Pid seen_by, std::string_view path) const {
  const auto task = task_of_(seen_by);
  const Fd link = task ? open_below(task->real, path, O_PATH | O_NOFOLLOW) : Fd();
  std::string target(PATH_MAX, '\0');
  const ssize_t n = link.valid() ? ::readlinkat(link.get(), "", target.data(), target.size()) : -1;
  if (n < 0) return std::nullopt;
  target.resize(static_cast<size_t>(n));
  return target;
}

}  // namespace snapgdb::gdbstub
