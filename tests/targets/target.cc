#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace target {
namespace {

std::atomic<int> differences{0};

void print(int fd, const char* prefix, const char* format, va_list arguments) {
  char line[1024];
  int length = snprintf(line, sizeof line, "%s", prefix);
  length += vsnprintf(line + length, sizeof line - length - 1, format, arguments);
  length = std::min(length, static_cast<int>(sizeof line) - 2);
  line[length++] = '\n';
  if (write(fd, line, length) < 0) _exit(1);
}

}  // namespace

void differs(const char* format, ...) {
  ++differences;
  char name[17] = {};
  prctl(PR_GET_NAME, name);
  char prefix[64];
  snprintf(prefix, sizeof prefix, "%s (%d.%d): ", name, getpid(), thread_id());
  va_list arguments;
  va_start(arguments, format);
  print(STDERR_FILENO, prefix, format, arguments);
  va_end(arguments);
}

void expect_equal(const char* what, uint64_t seen, uint64_t expected) {
  if (seen != expected) {
    differs("%s is 0x%lx, should be 0x%lx", what, static_cast<long>(seen),
            static_cast<long>(expected));
  }
}

long expect_call(const char* what, long result) {
  if (result < 0) differs("%s: %s", what, strerror(errno));
  return result;
}

int verdict() {
  return differences ? 1 : 0;
}

void cannot(const char* what) {
  fprintf(stderr, "target cannot be set up: %s: %s\n", what, strerror(errno));
  _exit(99);
}

int setup(const char* what, long result) {
  if (result < 0) cannot(what);
  return static_cast<int>(result);
}

void say(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  print(STDOUT_FILENO, "", format, arguments);
  va_end(arguments);
}

pid_t thread_id() {
  return static_cast<pid_t>(syscall(SYS_gettid));
}

uint64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

void sleep_ms(int milliseconds) {
  timespec left{milliseconds / 1000, milliseconds % 1000 * 1000000L};
  while (nanosleep(&left, &left) < 0 && errno == EINTR) {
  }
}

// ---- Children -------------------------------------------------------------------------------
namespace {

std::atomic<int> sigchld_count{0};
std::atomic<int> sigchld_code{0};
bool stops_allowed = false;

void on_sigchld(int, siginfo_t* info, void*) {
  const int code = info->si_code;
  if (stops_allowed && (code == CLD_STOPPED || code == CLD_CONTINUED)) return;
  ++sigchld_count;
  sigchld_code = code;
}

}  // namespace

void watch_for_sigchld(bool may_be_stopped) {
  stops_allowed = may_be_stopped;
  sigchld_count = 0;
  struct sigaction action {};
  action.sa_sigaction = on_sigchld;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  setup("sigaction", sigaction(SIGCHLD, &action, nullptr));
}

void expect_no_sigchld() {
  if (sigchld_count) {
    differs("%d SIGCHLD came, the last with code %d", sigchld_count.load(), sigchld_code.load());
  }
}

void expect_success_of(pid_t child) {
  int status = 0;
  pid_t reaped;
  do {
    reaped = waitpid(child, &status, 0);
  } while (reaped < 0 && errno == EINTR);
  if (reaped != child || status != 0) {
    differs("waitpid(%d) gave %d with status 0x%x", child, reaped, status);
  }
}

void expect_no_children() {
  int status = 0;
  const pid_t child = waitpid(-1, &status, WNOHANG | __WALL);
  if (child >= 0 || errno != ECHILD) differs("there is an unknown child, waitpid gave %d", child);
}

// ---- Threads --------------------------------------------------------------------------------

Thread::Thread(const char* name, std::function<void()> body) : shared_(new Shared) {
  shared_->name = name;
  shared_->body = std::move(body);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  errno = pthread_create(&handle_, nullptr, run, shared_.get());
  if (errno) cannot("pthread_create");
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  while (!shared_->tid) sleep_ms(1);
}

void* Thread::run(void* argument) {
  Shared& shared = *static_cast<Shared*>(argument);
  pthread_setname_np(pthread_self(), shared.name.c_str());
  shared.tid = thread_id();
  shared.body();
  shared.done = true;
  return nullptr;
}

void Thread::signal(int number, void* value) const {
  pthread_sigqueue(handle_, number, sigval{.sival_ptr = value});
}

void Thread::join() {
  pthread_join(handle_, nullptr);
}

// ---- The end --------------------------------------------------------------------------------
namespace {

volatile sig_atomic_t terminated = 0;

void on_sigterm(int) {
  terminated = 1;
}

bool at_end_of_input() {
  char ignored[256];
  const ssize_t length = read(STDIN_FILENO, ignored, sizeof ignored);
  return length == 0 || (length < 0 && errno != EAGAIN && errno != EINTR);
}

}  // namespace

void prepare_end() {
  struct sigaction action {};
  action.sa_handler = on_sigterm;
  setup("sigaction", sigaction(SIGTERM, &action, nullptr));
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  setup("sigprocmask", sigprocmask(SIG_BLOCK, &blocked, nullptr));
}

void wait_for_end() {
  sigset_t during_wait;
  pthread_sigmask(SIG_SETMASK, nullptr, &during_wait);
  sigdelset(&during_wait, SIGTERM);
  while (!terminated) {
    pollfd input{STDIN_FILENO, POLLIN, 0};
    const int seen = ppoll(&input, 1, nullptr, &during_wait);
    if (seen < 0 && !terminated && !(errno == EINTR && stops_allowed)) {
      differs("ppoll: %s", strerror(errno));
    }
    if (seen > 0 && at_end_of_input()) return;
  }
}

void ready() {
  say("ready");
}

// ---- Family ---------------------------------------------------------------------------------

Family::Family() {
  setup("pipe2", pipe2(ready_, O_CLOEXEC));
  setup("pipe2", pipe2(end_, O_CLOEXEC));
}

pid_t Family::fork_child(bool sees_parent) {
  const pid_t parent = getpid();
  const pid_t child = setup("fork", fork());
  if (child) return child;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != (sees_parent ? parent : 0)) _exit(99);
  if (end_[1] >= 0) close(end_[1]);
  end_[1] = -1;
  return 0;
}

void Family::announce_ready() const {
  setup("write", write(ready_[1], "", 1));
}

void Family::wait_for_announcements(int children) const {
  for (char byte; children > 0; --children) {
    if (read(ready_[0], &byte, 1) != 1) cannot("waiting for the children");
  }
}

void Family::wait_for_end_of_family() const {
  char byte;
  const ssize_t length = read(end_[0], &byte, 1);
  if (length != 0) differs("read of the end pipe gave %zd (%s)", length, strerror(errno));
}

void Family::end() {
  close(end_[1]);
  end_[1] = -1;
}

// ---- The rest -------------------------------------------------------------------------------

ScratchDirectory::ScratchDirectory() : owner_(getpid()) {
  const char* where = getenv("TMPDIR");
  path_ = std::string(where ? where : "/tmp") + "/target-XXXXXX";
  if (!mkdtemp(path_.data())) cannot(path_.c_str());
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  if (getpid() == owner_) std::filesystem::remove_all(path_, ignored);
}

bool has_flag(int argc, char** argv, const char* flag) {
  return std::any_of(argv + 1, argv + argc, [&](const char* word) { return !strcmp(word, flag); });
}

const char* option(int argc, char** argv, const char* option, const char* otherwise) {
  for (int i = 1; i + 1 < argc; ++i) {
    if (!strcmp(argv[i], option)) return argv[i + 1];
  }
  return otherwise;
}

}  // namespace target
