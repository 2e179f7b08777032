#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <exception>

#include "cli/command.h"
#include "cli/image_options.h"
#include "cli/output.h"
#include "cli/show.h"
#include "core/base/error.h"
#include "core/base/say.h"
#include "core/base/strings.h"
#include "core/version.h"
#include "gdbstub/live/launch.h"
#include "gdbstub/serve.h"

namespace snapgdb::cli {
namespace {

constexpr const Command* kCommands[] = {
    &kCaptureCommand, &kRestoreCommand, &kRunCommand,       &kShowCommand, &kBacktraceCommand,
    &kCoreCommand,    &kDebugCommand,   &kServeCommand,     &kGuiCommand,  &kVerifyCommand,
    &kKeygenCommand,  &kDoctorCommand,  &kResourcesCommand,
};

constexpr char kDescription[] =
    "snapgdb photographs a running process tree into one file, and makes that file a gdb remote\n"
    "target, a set of ELF cores and a picture.\n"
    "\n"
    "  snapgdb capture PID                               take a snapshot; the tree runs on\n"
    "  gdb -ex 'target remote | snapgdb IMG.snapgdb'     look at it as if it were alive\n"
    "  snapgdb IMG.snapgdb                               what is in it";

bool is_pipe_or_socket(int fd) {
  struct stat status;
  return ::fstat(fd, &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode));
}

// `snapgdb IMG`: gdb connects its `target remote | …` to our stdin; a person has a terminal there.
int open_image(const std::string& image, const OpenOptions& open, std::optional<int> pid) {
  if (!is_pipe_or_socket(STDIN_FILENO)) return show_summary(image, open, pid);
  return gdbstub::serve_stdio([&] { return open_with_image(image, open); },
                              {.pid = pid, .launch = gdbstub::launch});
}

// A program started with a standard descriptor closed would give its number to a file it opens.
// Writing fails as it did: nothing is to be lost without a word. A program that we become, or start
// by execve(2), finds it closed again.
void occupy_standard_descriptors() {
  for (const int number : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(number, F_GETFD) < 0)
      ::open("/dev/null", (number == STDIN_FILENO ? O_RDWR : O_RDONLY) | O_CLOEXEC);
}

int run(int argc, char** argv) {
  CLI::App app(kDescription, "snapgdb");
  app.set_version_flag("--version", std::string("snapgdb ") + kVersion);
  app.require_subcommand(0, 1);
  std::string image;
  std::optional<int> pid;
  OpenOptions open;
  auto* named =
      app.add_option("IMG", image, "Image to show, or to serve to gdb if standard input is a pipe");
  app.add_option("--pid", pid, "Process to show or serve; without it, the whole tree, or its root")
      ->needs(named);
  add_open_options(app, open);

  Action action;
  for (const Command* command : kCommands) {
    CLI::App* verb = app.add_subcommand(command->name, command->help);
    verb->callback([&action, define = command->define(*verb)] { action = define; });
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    throw Error(error.what(), "", "snapgdb --help tells how to use it", ExitStatus::kUsage);
  }
  if (action) return action();
  if (!image.empty()) return open_image(image, open, pid);
  fmt::print("{}", app.help());
  return 0;
}

}  // namespace
}  // namespace snapgdb::cli

int main(int argc, char** argv) {
  snapgdb::cli::occupy_standard_descriptors();
  try {
    const int status = snapgdb::cli::run(argc, argv);
    snapgdb::cli::finish_output();
    return status;
  } catch (const snapgdb::Error& error) {
    snapgdb::say("snapgdb: {}\n", snapgdb::cli::words_for(error));
    return static_cast<int>(error.status());
  } catch (const std::exception& error) {
    snapgdb::say("snapgdb: {}\n", snapgdb::cli::words_for(error));
    return static_cast<int>(snapgdb::ExitStatus::kFailed);
  }
}
