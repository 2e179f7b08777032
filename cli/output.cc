#include "cli/output.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <new>
#include <system_error>

#include "core/base/error.h"
#include "core/base/fd.h"
#include "core/base/strings.h"

namespace snapgdb::cli {
namespace {

bool is_standard_output(const std::string& path) {
  struct stat named {
  }, ours{};
  return path == "-" ||
         (::stat(path.c_str(), &named) == 0 && ::fstat(STDOUT_FILENO, &ours) == 0 &&
          !S_ISCHR(named.st_mode) && named.st_dev == ours.st_dev && named.st_ino == ours.st_ino);
}

bool is_terminal(const std::string& path) {
  if (path == "-") return ::isatty(STDOUT_FILENO);
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0 || !S_ISCHR(status.st_mode)) return false;
  const Fd file(::open(path.c_str(), O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
  return file.valid() && ::isatty(file.get());
}

}  // namespace

void take_failed_writes_for_errors() {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
}

void refuse_streams(const std::string& output, bool may_be_ours) {
  const std::string help = may_be_ours ? "give -o FILE, or a pipe" : "give -o FILE";
  const std::string tried = output == "-"
                                ? "cannot write the image to standard output"
                                : fmt::format("cannot write the image to {}", printable(output));
  if (is_terminal(output)) throw Error(tried, "it is a terminal", help, ExitStatus::kUsage);
  if (!may_be_ours && is_standard_output(output))
    throw Error(tried, "the command writes there", help, ExitStatus::kUsage);
}

void check_can_be_written(const std::string& output) {
  const std::string tried = "cannot write " + printable(output);
  struct stat status {};
  const bool is_there = ::stat(output.c_str(), &status) == 0;
  const std::filesystem::path path(output);
  if (!path.has_filename() || (is_there && S_ISDIR(status.st_mode)))
    throw SystemError(tried, EISDIR);
  // A file is replaced, for which its directory counts; a device or a FIFO is written to.
  const bool is_replaced = !is_there || S_ISREG(status.st_mode);
  const std::string directory = path.has_parent_path() ? path.parent_path().string() : ".";
  if (!is_replaced) {
    if (::faccessat(AT_FDCWD, output.c_str(), W_OK, AT_EACCESS) != 0) throw_errno("{}", tried);
    return;
  }
  if (::faccessat(AT_FDCWD, directory.c_str(), W_OK | X_OK, AT_EACCESS) != 0)
    throw SystemError(tried, errno, "its directory must be there, and yours to write to");
  if (!std::filesystem::is_directory(directory)) throw SystemError(tried, ENOTDIR);
}

void finish_output() {
  errno = 0;
  if (std::fflush(stdout) == 0 && !std::ferror(stdout)) return;
  // Of what went wrong earlier, no more is known.
  throw Error("cannot write standard output",
              errno ? errno_text(errno) : "an earlier write failed");
}

std::string words_for(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error)) return "out of memory";
  const auto* of_system = dynamic_cast<const std::system_error*>(&error);
  if (of_system && of_system->code() == std::errc::resource_unavailable_try_again)
    return "cannot start a thread: a limit is reached (ulimit -u, ulimit -v, pids.max of the "
           "cgroup)";
  if (of_system && std::ferror(stdout))  // of fmt::print()
    return "cannot write standard output: " + of_system->code().message();
  return printable(error.what());
}

}  // namespace snapgdb::cli
