#include "tests/e2e/harness.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CATCH_CONFIG_EXTERNAL_INTERFACES  // listeners
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "core/base/error.h"

namespace snapgdb::e2e {
namespace {

using Clock = std::chrono::steady_clock;
namespace fs = std::filesystem;

// What a test's programs leave behind comes to this process, which then ends it.
const bool is_subreaper = prctl(PR_SET_CHILD_SUBREAPER, 1) == 0;
// A program that is gone when it is written to is an error of that call.
const bool sigpipe_is_ignored = signal(SIGPIPE, SIG_IGN) != SIG_ERR;

void nap() {
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

// The process and all below it, itself last.
void collect_tree(pid_t pid, std::vector<pid_t>& tree) {
  for (const pid_t child : children_of(pid)) collect_tree(child, tree);
  tree.push_back(pid);
}

}  // namespace

std::string program() {
  const char* another = getenv("SNAPGDB_PROGRAM");
  return another ? another : SNAPGDB_PROGRAM;
}
std::string target_path(const std::string& name) {
  return SNAPGDB_TARGETS "/" + name;
}
std::string script_path(const std::string& name) {
  return SNAPGDB_E2E_SCRIPTS "/" + name;
}

// ---- Files ------------------------------------------------------------------------------------

TempDir::TempDir() : path_((fs::temp_directory_path() / "snapgdb-e2e-XXXXXX").string()) {
  if (!mkdtemp(path_.data())) throw_errno("cannot create {}", path_);
  // Programs that run as somebody else come here, too.
  chmod(path_.c_str(), 0755);
}

TempDir::~TempDir() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

Words TempDir::names() const {
  Words names;
  for (const auto& entry : fs::directory_iterator(path_)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

std::string read_file(const std::string& path) {
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) throw_errno("cannot open {}", path);
  return read_whole(fd.get(), path);
}

void write_file(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

Words lines_of(const std::string& text) {
  Words lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// ---- Running ----------------------------------------------------------------------------------

std::ostream& operator<<(std::ostream& stream, const Result& result) {
  constexpr size_t kMost = 6000;
  const auto shown = [](const std::string& text) {
    return text.size() > kMost ? text.substr(0, kMost) + "…\n" : text;
  };
  for (const std::string& word : result.command) stream << word << ' ';
  stream << "\nstatus " << result.status << " signal " << result.signal
         << (result.timed_out ? " timed out" : "") << "\nstdout:\n"
         << shown(result.out) << "stderr:\n"
         << shown(result.err);
  return stream;
}

void check_says(const Result& result, const Words& parts) {
  INFO(result);
  for (const std::string& part : parts) {
    INFO("expected: " << part);
    CHECK(contains(result.out + result.err, part));
  }
}

namespace {

// The kernel does not order writes to a memory file by its position: threads that print at the same
// time would overwrite each other's lines, but for O_APPEND.
Fd output_file(const char* name) {
  Fd file(memfd_create(name, MFD_CLOEXEC));
  if (!file.valid() || fcntl(file.get(), F_SETFL, O_APPEND)) throw_errno("cannot create {}", name);
  return file;
}

}  // namespace

namespace {

// Anybody's, as /tmp is; gone with this program, and with it what those it ran have left there: the
// scratch of an isolated tree stays, for whoever wants to see what was written.
const std::string& temporary_directory() {
  static const TempDir directory;
  static const bool is_open = chmod(directory.path().c_str(), 01777) == 0;
  if (!is_open) throw_errno("cannot let everybody into {}", directory.path());
  return directory.path();
}

}  // namespace

Running::Running(Words command, RunOptions options) : command_(std::move(command)) {
  options.environment.try_emplace("TMPDIR", temporary_directory());
  out_ = output_file("stdout");
  err_ = output_file("stderr");
  start(options);
  pidfd_ = Fd(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
}

Running::Running(Running&& other) noexcept
    : command_(std::move(other.command_)),
      pid_(std::exchange(other.pid_, -1)),
      result_(std::move(other.result_)),
      input_(std::move(other.input_)),
      out_(std::move(other.out_)),
      err_(std::move(other.err_)),
      pidfd_(std::move(other.pidfd_)) {}

namespace {

std::pair<Fd, Fd> make_pipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC)) throw_errno("cannot make a pipe");
  return {Fd(ends[0]), Fd(ends[1])};
}

void become_user(uid_t user) {
  if (setgroups(0, nullptr) || setresgid(user, user, user) || setresuid(user, user, user))
    _exit(126);
  prctl(PR_SET_DUMPABLE, 1);
}

[[noreturn]] void execute(const Words& command, const RunOptions& options) {
  signal(SIGPIPE, SIG_DFL);
  setsid();  // no terminal, and a group that can be signalled as one
  if (options.user) become_user(*options.user);
  if (!options.directory.empty() && chdir(options.directory.c_str())) _exit(126);
  for (const auto& [name, value] : options.environment) setenv(name.c_str(), value.c_str(), 1);
  // ctest leaves its log open in the tests; programs are to have what they are given.
  close_range(STDERR_FILENO + 1, ~0u, CLOSE_RANGE_CLOEXEC);
  if (options.before_exec) options.before_exec();
  std::vector<char*> words;
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  execvp(words[0], words.data());
  const std::string line = fmt::format("cannot execute {}: {}\n", command[0], strerror(errno));
  (void)!::write(STDERR_FILENO, line.data(), line.size());
  _exit(127);
}

}  // namespace

void Running::start(const RunOptions& options) {
  auto [reader, writer] = make_pipe();
  input_ = std::move(writer);
  if (options.input == RunOptions::kNothing) {
    reader.reset(open("/dev/null", O_RDONLY | O_CLOEXEC));
    input_.reset();
  }
  auto [started, starting] = make_pipe();
  pid_ = fork();
  if (pid_ < 0) throw_errno("cannot fork");
  if (pid_) {
    // Until the exec closes it the child is a copy of this test, which signals must not meet.
    starting.reset();
    char none;
    while (read(started.get(), &none, 1) < 0 && errno == EINTR) {
    }
    return;
  }
  dup2(reader.get(), STDIN_FILENO);
  dup2(out_.get(), STDOUT_FILENO);
  dup2(err_.get(), STDERR_FILENO);
  execute(command_, options);
}

Running::~Running() {
  if (pid_ > 0 && !result_) {
    kill();
    waitpid(pid_, nullptr, 0);
  }
  // Orphans have come to us.
  std::vector<pid_t> orphans = children_of(getpid());
  std::erase_if(orphans, [&](pid_t pid) { return getpgid(pid) != pid_; });
  for (const pid_t pid : orphans) {
    ::kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
}

void Running::kill() const {
  std::vector<pid_t> tree;
  collect_tree(pid_, tree);
  for (const pid_t pid : tree) ::kill(pid, SIGKILL);
}

std::string Running::out() const {
  return read_file(fmt::format("/proc/self/fd/{}", out_.get()));
}
std::string Running::err() const {
  return read_file(fmt::format("/proc/self/fd/{}", err_.get()));
}

void Running::write(const std::string& text) {
  write_all(input_.get(), std::as_bytes(std::span(text)), "the program's input");
}

std::string Running::wait_for_line(const std::string& start) {
  for (const auto end = Clock::now() + kPatience; Clock::now() < end; nap()) {
    const bool over = exited();
    const std::string text = out();
    const Words lines = lines_of(text.substr(0, text.rfind('\n') + 1));
    const auto found = std::find_if(lines.begin(), lines.end(),
                                    [&](const auto& line) { return line.starts_with(start); });
    if (found != lines.end()) return *found;
    if (over) break;
  }
  throw Error(fmt::format("{} did not say \"{}\"", command_[0], start), out() + err());
}

bool Running::exited() const {
  pollfd end{pidfd_.get(), POLLIN, 0};
  return poll(&end, 1, 0) > 0;
}

Result Running::wait(Seconds patience) {
  if (result_) return *result_;
  Result result{.command = command_};
  pollfd end{pidfd_.get(), POLLIN, 0};
  const int milliseconds = static_cast<int>(patience.count()) * 1000;
  result.timed_out = poll(&end, 1, milliseconds) == 0;
  if (result.timed_out) kill();
  int status = 0;
  waitpid(pid_, &status, 0);
  if (WIFEXITED(status)) result.status = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  result.out = out();
  result.err = err();
  result_ = result;
  return result;
}

Result run(Words command, RunOptions options, Seconds patience) {
  return Running(std::move(command), std::move(options)).wait(patience);
}

Result snapgdb(Words arguments, RunOptions options) {
  arguments.insert(arguments.begin(), program());
  return run(std::move(arguments), std::move(options));
}

Result gdb(const Words& commands, const Words& arguments, RunOptions options) {
  Words words{"gdb", "-nx", "-batch", "-ex", "set width 0", "-ex", "set height 0"};
  for (const std::string& command : commands) words.insert(words.end(), {"-ex", command});
  words.insert(words.end(), arguments.begin(), arguments.end());
  options.environment["DEBUGINFOD_URLS"] = "";
  options.environment["LC_ALL"] = "C.UTF-8";
  return run(std::move(words), std::move(options));
}

bool installed(const std::string& name) {
  return run({"sh", "-c", "command -v \"$0\"", name}, {.environment = {{"PATH", search_path()}}})
      .ok();
}

std::string search_path() {
  std::string path = std::string(getenv("PATH")) + ":/usr/sbin:/sbin";
  const fs::path postgresql = "/usr/lib/postgresql";  // a directory for each of its versions
  std::error_code none;
  for (const auto& version : fs::directory_iterator(postgresql, none)) {
    path += ":" + (version.path() / "bin").string();
  }
  return path;
}

int free_port() {
  const Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  REQUIRE(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  socklen_t size = sizeof address;
  getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.sin_port);
}

// ---- Targets ----------------------------------------------------------------------------------
namespace {

Words with_arguments(const std::string& path, const Words& arguments) {
  Words command{path};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

RunOptions for_target(RunOptions options, const TempDir& scratch) {
  options.input = RunOptions::kPipe;
  options.environment["TMPDIR"] = scratch.path();
  if (options.user) {
    (void)!chown(scratch.path().c_str(), *options.user, *options.user);
  }
  return options;
}

}  // namespace

Target::Target(const std::string& name, const Words& arguments, RunOptions options)
    : Target(with_arguments(target_path(name), arguments), std::move(options), nullptr) {}

Target Target::at(const std::string& path, const Words& arguments, RunOptions options) {
  return Target(with_arguments(path, arguments), std::move(options), nullptr);
}

Target::Target(Words command, RunOptions options, const TempDir*)
    : scratch_(std::make_unique<TempDir>()),
      running_(std::move(command), for_target(std::move(options), *scratch_)) {
  running_.wait_for_line("ready");
}

Words Target::said(const std::string& word) const {
  Words rest;
  for (const std::string& line : lines_of(running_.out())) {
    if (line.starts_with(word + " ")) rest.push_back(line.substr(word.size() + 1));
  }
  return rest;
}

std::string Target::scratch() const {
  return scratch_->path();
}

std::vector<pid_t> Target::processes() const {
  std::vector<pid_t> pids;
  for (const std::string& line : said("process")) pids.push_back(std::stoi(line));
  return pids;
}

Result Target::finish() {
  running_.close_input();
  return running_.wait();
}

// ---- Processes --------------------------------------------------------------------------------

char state_of(pid_t pid) {
  std::ifstream stat(fmt::format("/proc/{}/stat", pid));
  std::string text;
  std::getline(stat, text);
  const size_t end = text.rfind(") ");
  return end == text.npos ? 0 : text[end + 2];
}

std::vector<pid_t> children_of(pid_t pid) {
  std::vector<pid_t> children;
  std::error_code gone;
  for (const auto& task : fs::directory_iterator(fmt::format("/proc/{}/task", pid), gone)) {
    std::ifstream list(task.path() / "children");
    for (pid_t child; list >> child;) children.push_back(child);
  }
  return children;
}

namespace {

void signal_until(const std::vector<pid_t>& processes, int signal, bool stopped) {
  for (const pid_t pid : processes) kill(pid, signal);
  for (const pid_t pid : processes) {
    while (state_of(pid) && (state_of(pid) == 'T') != stopped) nap();
  }
}

}  // namespace

void stop(const std::vector<pid_t>& processes) {
  signal_until(processes, SIGSTOP, true);
}
void resume(const std::vector<pid_t>& processes) {
  signal_until(processes, SIGCONT, false);
}

namespace {

// Everything that is missing is so because only root may read it.
bool lacks_only_what_nobody_tells(const Result& result, uid_t user) {
  const Words lines = lines_of(result.err);
  return result.status == 3 && std::ranges::all_of(lines, [user](const std::string& line) {
           return !line.starts_with("snapgdb: ") || line.starts_with("snapgdb: … and ") ||
                  contains(line, "which cannot be read without taking them away") ||
                  (user != 0 && contains(line, "CAP_"));
         });
}

// tmux starts a set-group-ID helper (utempter) now and then; it lives for a moment.
bool met_a_privileged_helper(const Result& result) {
  return result.status == 1 && contains(result.err, "it is a set-user-ID or set-group-ID program");
}

}  // namespace

void capture(pid_t pid, const std::string& image, const Words& options, RunOptions run) {
  Words arguments{"capture", std::to_string(pid), "-o", image};
  arguments.insert(arguments.end(), options.begin(), options.end());
  const uid_t user = run.user.value_or(geteuid());
  Result result = snapgdb(arguments, run);
  for (int i = 0; i < 100 && met_a_privileged_helper(result); ++i) {
    usleep(20000);
    result = snapgdb(arguments, run);
  }
  INFO(result);
  REQUIRE((result.status == 0 || lacks_only_what_nobody_tells(result, user)));
}

// ---- Checks -----------------------------------------------------------------------------------

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != text.npos;
}

void check_refused(const Result& result, int status, const Words& parts) {
  INFO(result);
  CHECK(result.status == status);
  CHECK(result.out.empty());
  CHECK(lines_of(result.err).size() == 1);
  CHECK(result.err.starts_with("snapgdb: "));
  for (const std::string& part : parts) {
    INFO("expected in it: " << part);
    CHECK(contains(result.err, part));
  }
}

namespace {

// System V and POSIX objects that a failed test leaves behind end with its process; those of root
// would otherwise use up what the kernel gives a user (RLIMIT_MSGQUEUE), for later tests, too.
struct OwnIpc : Catch::TestEventListenerBase {
  using TestEventListenerBase::TestEventListenerBase;
  void testRunStarting(const Catch::TestRunInfo& info) override {
    TestEventListenerBase::testRunStarting(info);
    unshare(CLONE_NEWIPC);  // an ordinary user stays where they are
  }
};
CATCH_REGISTER_LISTENER(OwnIpc)

}  // namespace

bool skip_unless(bool possible, const std::string& reason) {
  if (!possible) WARN("skipped: " << reason);
  return !possible;
}

}  // namespace snapgdb::e2e
