#include "target.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
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
#include <sstream>

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

// ---- OwnState -------------------------------------------------------------------------------
namespace {

// The heap gets its final size at the start, lest allocations change the mappings later.
[[maybe_unused]] const bool heap_is_steady = [] {
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 8 << 20);
  free(malloc(1 << 20));
  return true;
}();

void append_file(std::string& text, const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  char buffer[4096];
  ssize_t length;
  while ((length = read(fd, buffer, sizeof buffer)) > 0) text.append(buffer, length);
  close(fd);
}

std::vector<int> numbers_in(const char* directory) {
  std::vector<int> numbers;
  DIR* stream = opendir(directory);
  if (!stream) cannot(directory);
  while (const dirent* entry = readdir(stream)) {
    if (entry->d_name[0] != '.') numbers.push_back(atoi(entry->d_name));
  }
  // The stream's own descriptor is no part of the state.
  std::erase(numbers, strstr(directory, "/fd") ? dirfd(stream) : -1);
  closedir(stream);
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

// Keeps the lines of `text` that start with one of `keys`.
std::string lines_of(const std::string& text, const std::vector<std::string>& keys) {
  std::string kept;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const bool wanted = std::any_of(keys.begin(), keys.end(),
                                    [&](const auto& key) { return line.starts_with(key); });
    if (wanted) kept += line + "\n";
  }
  return kept;
}

// Address lines and VmFlags of smaps: counters like Rss may change without our doing.
std::string mappings() {
  std::string smaps;
  append_file(smaps, "/proc/self/smaps");
  std::string kept;
  std::istringstream lines(smaps);
  for (std::string line; std::getline(lines, line);) {
    const bool address = isxdigit(line[0]) && line.find('-') < 17;
    if (address || line.starts_with("VmFlags:")) kept += line + "\n";
  }
  // The soft-dirty mark comes and goes with whoever reads page maps on this machine, and a test may
  // delete a file while it is mapped.
  for (const std::string mark : {" sd", " (deleted)"}) {
    for (size_t at; (at = kept.find(mark)) != std::string::npos;) kept.erase(at, mark.size());
  }
  return kept;
}

std::string descriptors() {
  std::string text;
  for (const int fd : numbers_in("/proc/self/fd")) {
    char link[4096];
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    const ssize_t length = readlink(path.c_str(), link, sizeof link);
    if (length < 0) continue;
    text += std::to_string(fd) + " -> " + std::string(link, length) + "\n";
    std::string info;
    append_file(info, "/proc/self/fdinfo/" + std::to_string(fd));
    text += lines_of(info, {"flags:", "lock:", "eventfd-count:", "sigmask:", "tfd:", "inotify",
                            "clockid:", "settime flags:", "it_interval:"});
  }
  return text;
}

std::string tasks() {
  static const std::vector<std::string> keys{"Name:",
                                             "Umask:",
                                             "Tgid:",
                                             "Pid:",
                                             "PPid:",
                                             "TracerPid:",
                                             "Uid:",
                                             "Gid:",
                                             "Groups:",
                                             "Threads:",
                                             "SigPnd:",
                                             "ShdPnd:",
                                             "SigBlk:",
                                             "SigIgn:",
                                             "SigCgt:",
                                             "Cap",
                                             "NoNewPrivs:",
                                             "Seccomp",
                                             "Cpus_allowed_list:",
                                             "THP_enabled:"};
  std::string text;
  for (const int tid : numbers_in("/proc/self/task")) {
    const std::string directory = "/proc/self/task/" + std::to_string(tid);
    std::string status;
    append_file(status, directory + "/status");
    text += lines_of(status, keys);
    append_file(text, directory + "/timerslack_ns");
    append_file(text, directory + "/personality");
  }
  return text;
}

std::string children() {
  std::string text;
  for (const int tid : numbers_in("/proc/self/task")) {
    append_file(text, "/proc/self/task/" + std::to_string(tid) + "/children");
  }
  return text;
}

std::string first_difference(const std::string& before, const std::string& after) {
  std::istringstream a(before), b(after);
  std::string line_a, line_b;
  do {
    line_a = line_b = "(nothing)";
    const bool more_a = static_cast<bool>(std::getline(a, line_a));
    const bool more_b = static_cast<bool>(std::getline(b, line_b));
    if (!more_a && !more_b) return "";
  } while (line_a == line_b);
  return "was \"" + line_a + "\", is \"" + line_b + "\"";
}

}  // namespace

namespace {

// A restored tree has what it had, but for this: its standard streams and its first process's
// parent are others, pipes and removed files have other numbers, and adjoining mappings that do not
// differ may have become one.
bool was_restored() {
  const char* directory = getenv("TMPDIR");
  return directory && access((std::string(directory) + "/restored").c_str(), F_OK) == 0;
}

std::string without_numbers(const std::string& text) {
  std::string kept;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const bool standard = line.size() > 5 && line[0] >= '0' && line[0] <= '2' && line[1] == ' ';
    if (standard) std::getline(lines, line);  // its flags, too
    if (standard || line.starts_with("PPid:")) continue;
    if (const size_t at = line.find(":["); at != std::string::npos) line.resize(at);
    kept += line + "\n";
  }
  return kept;
}

struct Mapping {
  unsigned long start, end;
  std::string rest, flags;
};

std::string as_one_where_equal(const std::string& text) {
  std::vector<Mapping> mappings;
  std::istringstream lines(text);
  for (std::string line, flags; std::getline(lines, line) && std::getline(lines, flags);) {
    Mapping next{strtoul(line.c_str(), nullptr, 16),
                 strtoul(line.c_str() + line.find('-') + 1, nullptr, 16),
                 line.substr(line.find(' ')), flags};
    // Without offset, which follows from the start, device and inode.
    const size_t name = next.rest.find_first_of("/[");
    next.rest = next.rest.substr(0, 6) + (name == std::string::npos ? "" : next.rest.substr(name));
    Mapping* last = mappings.empty() ? nullptr : &mappings.back();
    if (last && last->end == next.start && last->rest == next.rest && last->flags == flags)
      last->end = next.end;
    else
      mappings.push_back(next);
  }
  std::ostringstream out;
  for (const Mapping& mapping : mappings)
    out << std::hex << mapping.start << '-' << mapping.end << mapping.rest << ' ' << mapping.flags
        << '\n';
  return out.str();
}

}  // namespace

void OwnState::forget_what_a_restore_changes(Texts& texts) {
  if (!was_restored()) return;
  texts[kMappings] = as_one_where_equal(texts[kMappings]);
  texts[kDescriptors] = without_numbers(texts[kDescriptors]);
  texts[kTasks] = without_numbers(texts[kTasks]);
}

void OwnState::read(Texts& texts) {
  texts[kMappings] = mappings();
  texts[kDescriptors] = descriptors();
  texts[kTasks] = tasks();
  texts[kChildren] = children();
}

// Reading needs memory, which changes the mappings: read until reading changes nothing more.
void OwnState::remember() {
  for (int attempt = 0; attempt < 20; ++attempt) {
    read(before_);
    read(after_);
    if (before_ == after_) return;
  }
  differs("the target's own state does not settle");
}

void OwnState::compare() {
  static constexpr std::array<const char*, kParts> names{"mappings", "descriptors", "tasks",
                                                         "children"};
  read(after_);
  forget_what_a_restore_changes(before_);
  forget_what_a_restore_changes(after_);
  for (int part = 0; part < kParts; ++part) {
    if (before_[part] == after_[part]) continue;
    differs("%s: %s", names[part], first_difference(before_[part], after_[part]).c_str());
  }
}

void OwnState::compare_once_settled() {
  for (int tries = 0; tries < 1000; ++tries) {
    read(after_);
    if (before_ == after_) return;
    sleep_ms(2);
  }
  compare();
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

void wait_until_blocked(pid_t tid, long number) {
  const std::string path = "/proc/self/task/" + std::to_string(tid) + "/syscall";
  const std::string start = std::to_string(number) + " ";
  for (std::string text; !text.starts_with(start);) {
    sleep_ms(1);
    text.clear();
    append_file(text, path);
  }
}

// ---- Family ---------------------------------------------------------------------------------

Family::Family() {
  setup("pipe2", pipe2(ready_, O_CLOEXEC));
  setup("pipe2", pipe2(end_, O_CLOEXEC));
}

pid_t Family::fork_child() {
  const pid_t parent = getpid();
  const pid_t child = setup("fork", fork());
  if (child) return child;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(99);
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
