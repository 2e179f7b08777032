#include "gdbstub/background.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "core/base/error.h"
#include "core/base/fd.h"
#include "core/base/say.h"
#include "gdbstub/serve.h"

namespace snapgdb::gdbstub {
namespace {

constexpr std::string_view kSocket = "/stub";

// Where there is room for a directory, and its name leaves room for that of a socket in it.
std::string private_directory() {
  for (const char* parent : {std::getenv("XDG_RUNTIME_DIR"), std::getenv("TMPDIR")}) {
    if (!parent || access(parent, W_OK | X_OK) != 0) continue;
    std::string path = fmt::format("{}/snapgdb-XXXXXX", parent);
    const bool fits = path.size() + kSocket.size() < sizeof(sockaddr_un::sun_path);
    if (fits && mkdtemp(path.data())) return path;
  }
  std::string path = "/tmp/snapgdb-XXXXXX";
  if (!mkdtemp(path.data())) throw_errno("cannot make a directory {}", path);
  return path;
}

std::unique_ptr<Listener> listen_in(const std::string& directory) try {
  return std::make_unique<Listener>(fmt::format("unix:{}{}", directory, kSocket));
} catch (const Error&) {
  rmdir(directory.c_str());
  throw;
}

// False: `process` ended before a client came.
bool wait_for_client(const Listener& listener, const Fd& process) {
  std::array<pollfd, 2> events = {pollfd{listener.fd(), POLLIN, 0},
                                  pollfd{process.get(), POLLIN, 0}};
  while (poll(events.data(), events.size(), -1) < 0)
    if (errno != EINTR) return false;
  return (events[0].revents & POLLIN) != 0;
}

// gdb's terminal and pipes are not ours, but for messages.
void leave_terminal() {
  setsid();
  const Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  dup2(null.get(), STDIN_FILENO);
  dup2(null.get(), STDOUT_FILENO);
}

void serve_first(std::shared_ptr<const Snapshot> snapshot, const SessionOptions& options,
                 std::unique_ptr<Listener> listener, const std::string& directory,
                 const Fd& caller) {
  Fd client;
  if (wait_for_client(*listener, caller)) client = listener->accept();
  listener.reset();
  rmdir(directory.c_str());
  if (!client.valid()) return;
  Session session(std::move(snapshot), options);
  serve(session, client.get(), client.get());
}

}  // namespace

std::string serve_in_background(std::shared_ptr<const Snapshot> snapshot,
                                const SessionOptions& options) {
  const std::string directory = private_directory();
  auto listener = listen_in(directory);
  const Fd caller(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  if (!caller.valid()) throw_errno("cannot watch over the debugger");
  const pid_t child = fork();
  if (child < 0) throw_errno("cannot start a process in the background");
  if (child > 0) {
    listener->disown();
    waitpid(child, nullptr, 0);
    return fmt::format("{}{}", directory, kSocket);
  }
  if (fork() != 0) _exit(0);  // the one that serves has init for its parent
  leave_terminal();
  try {
    serve_first(std::move(snapshot), options, std::move(listener), directory, caller);
  } catch (const Error& error) {
    say("snapgdb: {}\n", error.what());
  }
  _exit(0);
}

}  // namespace snapgdb::gdbstub
