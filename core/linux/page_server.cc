#include "core/linux/page_server.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "core/base/error.h"
#include "core/base/say.h"
#include "core/linux/child.h"

namespace snapgdb {
namespace {

constexpr uint64_t kPage = 4096, kEndOfUserSpace = 0x7ffffffff000;

void say_of_end(const std::string& why) {
  say("snapgdb: {}; the tree is ended\n", why);
}

// ---- What brings the pages ----------------------------------------------------------------------

void await_news(const std::vector<LazySpace>& spaces) {
  std::vector<pollfd> told;
  for (const LazySpace& space : spaces) told.push_back({space.descriptor(), POLLIN, 0});
  constexpr int kMilliseconds = 1;
  if (::poll(told.data(), told.size(), kMilliseconds) < 0 && errno != EINTR)
    throw_errno("cannot wait for page faults");
}

void serve(std::vector<LazySpace>& spaces, const PageSource& source) {
  while (true) {
    std::vector<LazySpace> born;
    for (LazySpace& space : spaces) space.answer(source, born);
    for (LazySpace& space : born) spaces.push_back(std::move(space));
    std::erase_if(spaces, [](const LazySpace& space) { return space.done(); });
    if (spaces.empty()) return;
    if (!spaces.front().bring_some(source)) await_news(spaces);
  }
}

// ---- What watches it ----------------------------------------------------------------------------

// Ours, those of children that the tree has forked meanwhile included: the table is a common one.
std::vector<int> userfaults() {
  std::vector<int> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    if (std::filesystem::read_symlink(entry.path(), gone) == "anon_inode:[userfaultfd]")
      found.push_back(std::stoi(entry.path().filename()));
  }
  return found;
}

// Its process has none of its memory any more.
bool is_over(int userfault) {
  uffdio_zeropage nowhere{{kPage, kPage}, UFFDIO_ZEROPAGE_MODE_DONTWAKE, 0};
  return ::ioctl(userfault, UFFDIO_ZEROPAGE, &nowhere) != 0 && errno == ESRCH;
}

// Who waits already, and was told of to the other, faults again.
void kill_waiting(int userfault) {
  uffdio_range everything{kPage, kEndOfUserSpace - kPage};
  if (::ioctl(userfault, UFFDIO_WAKE, &everything) != 0) throw_errno("cannot wake the tree");
  uffd_msg message;
  while (::read(userfault, &message, sizeof message) == sizeof message)
    if (message.event == UFFD_EVENT_PAGEFAULT)
      ::kill(static_cast<pid_t>(message.arg.pagefault.feat.ptid), SIGKILL);
}

// Children that were forked meanwhile are nowhere listed: they end as they touch what is absent.
void end_tree(const ServedTree& tree) {
  for (const Fd& process : tree.processes)
    ::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0);
  if (tree.init.valid()) ::syscall(SYS_pidfd_send_signal, tree.init.get(), SIGKILL, nullptr, 0);
  for (bool left = true; left; ::usleep(1000)) {
    left = false;
    for (const int userfault : userfaults()) {
      if (is_over(userfault)) continue;
      left = true;
      if (!tree.init.valid()) kill_waiting(userfault);
    }
  }
}

[[noreturn]] void watch(int server, const ServedTree& tree) {
  ::prctl(PR_SET_NAME, "snapgdb-watch");
  const int status = wait_for(server);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) ::_exit(0);
  if (WIFSIGNALED(status))
    say_of_end("what brings the tree its memory was killed by signal " +
               std::to_string(WTERMSIG(status)));
  end_tree(tree);
  ::_exit(1);
}

[[noreturn]] void be_server(std::vector<LazySpace>& spaces, const PageSource& source) {
  ::prctl(PR_SET_NAME, "snapgdb-pages");
  try {
    serve(spaces, source);
    ::_exit(0);
  } catch (const std::exception& error) {
    say_of_end(error.what());
  }
  ::_exit(1);
}

// Not those that a terminal or a pipe of the caller's belongs to: it need not wait for us.
void leave_session() {
  ::setsid();
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO}) {
    const Fd nothing(::open("/dev/null", O_RDWR | O_CLOEXEC));
    if (nothing.get() != stream) ::dup2(nothing.get(), stream);
  }
}

pid_t fork_with(uint64_t flags) {
  const pid_t pid = clone3({.flags = flags, .exit_signal = SIGCHLD});
  if (pid < 0) throw_errno("cannot start what brings the tree its memory");
  return pid;
}

}  // namespace

void start_page_server(std::vector<LazySpace> spaces, const PageSource& source,
                       const ServedTree& tree) {
  // A child of a child, so that nobody of the caller's has to wait for it.
  if (const pid_t child = fork_with(0); child != 0) return void(wait_for(child));
  try {
    if (fork_with(0) != 0) ::_exit(0);
    leave_session();
    const pid_t server = fork_with(CLONE_FILES);
    if (server == 0) be_server(spaces, source);
    watch(server, tree);
  } catch (const std::exception& error) {
    say_of_end(error.what());
    end_tree(tree);
  }
  ::_exit(1);
}

}  // namespace snapgdb
