#include "core/linux/init.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <new>
#include <sstream>

#include "core/base/error.h"
#include "core/linux/child.h"
#include "core/linux/reopened.h"

namespace snapgdb {
namespace {

// How what it says begins: what it cannot do; something else; that this was all.
constexpr char kFailure = '!', kLine = ' ', kEnd = '.';

}  // namespace

Init::Init(const Tasks& tasks, std::vector<std::string>& notes) : answers_(make_pipe()) {
  void* page =
      ::mmap(nullptr, sizeof(Orders), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) throw_errno("cannot share memory with the first process");
  orders_ = new (page) Orders;
  const int32_t number = 1;
  int pidfd = -1;
  pid_ = clone3({.flags = uint64_t{CLONE_NEWPID | CLONE_NEWNS | CLONE_FILES | CLONE_PIDFD},
                 .pidfd = reinterpret_cast<uint64_t>(&pidfd),
                 .exit_signal = SIGCHLD,
                 .set_tid = reinterpret_cast<uint64_t>(&number),
                 .set_tid_size = 1});
  if (pid_ == 0) live(tasks);
  if (pid_ < 0) throw_errno("cannot make the first process of a pid namespace");
  process_ = Fd(pidfd);
  read_lines(notes);
}

OpenedFiles Init::open_files() {
  order(Step::kOpen);
  OpenedFiles opened;
  std::istringstream numbers(*read_line());
  for (int number = 0; numbers >> number;) opened.files.emplace_back(number);
  read_lines(opened.notes);
  return opened;
}

void Init::enter_mounts() const {
  const Fd mounts(::open(fmt::format("/proc/{}/ns/mnt", pid_).c_str(), O_RDONLY | O_CLOEXEC));
  if (!mounts.valid() || ::setns(mounts.get(), CLONE_NEWNS) != 0)
    throw_errno("cannot see the tree's mounts");
}

void Init::go() {
  orders_->answer = answers_.write.get();
  order(Step::kGo);
  while (said_.empty()) hear();  // one byte (Seed::park_and_wait())
}

void Init::move_descriptors(int lowest) {
  for (Fd* fd : {&answers_.read, &answers_.write, &process_})
    *fd = moved_up(std::move(*fd), lowest);
}

void Init::order(Step step) {
  orders_->step = step;
  ::syscall(SYS_futex, &orders_->step, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

void Init::await(Step step) const {
  for (Step now; (now = orders_->step) < step;)
    ::syscall(SYS_futex, &orders_->step, FUTEX_WAIT, now, nullptr, nullptr, 0);
}

void Init::live(const Tasks& tasks) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  try {
    std::optional<DescriptorsInReach> reach(std::in_place);
    say(tasks.make_mounts());
    await(Step::kOpen);
    auto [files, notes] = tasks.open_files();
    reach.reset();
    std::string numbers;
    for (Fd& file : files) numbers += fmt::format("{} ", file.release());
    write(kLine + numbers + "\n");
    say(notes);
  } catch (const std::exception& error) {
    write(kFailure + std::string(error.what()) + "\n");
    ::_exit(1);
  }
  await(Step::kGo);
  const int answer = orders_->answer;
  if (::unshare(CLONE_FILES) != 0) ::_exit(1);
  Seed::park_and_wait(tasks.seed_base, answer, Pid{0});
}

void Init::write(const std::string& text) const {
  write_all(answers_.write.get(), std::as_bytes(std::span(text)), "a pipe");
}

void Init::say(const std::vector<std::string>& lines) const {
  std::string text;
  for (const std::string& line : lines) text += kLine + line + "\n";
  write(text + kEnd + "\n");
}

// It may end without a word, and we have the other end of the pipe, too.
void Init::hear() {
  pollfd events[] = {{answers_.read.get(), POLLIN, 0}, {process_.get(), POLLIN, 0}};
  if (::poll(events, 2, -1) < 0 && errno != EINTR) throw_errno("cannot wait for a process");
  if (events[0].revents & POLLIN) {
    std::array<char, 4096> piece;
    const ssize_t n = ::read(answers_.read.get(), piece.data(), piece.size());
    said_.append(piece.data(), static_cast<size_t>(std::max<ssize_t>(n, 0)));
  } else if (events[1].revents & POLLIN) {
    throw Error("cannot prepare the first process", "it was killed, or could not be parked");
  }
}

// nullopt: that was all.
std::optional<std::string> Init::read_line() {
  size_t end = 0;
  while ((end = said_.find('\n')) == said_.npos) hear();
  const std::string line = said_.substr(0, end);
  said_.erase(0, end + 1);
  if (line.starts_with(kFailure)) throw Error(line.substr(1), "");
  return line.starts_with(kEnd) ? std::nullopt : std::optional(line.substr(1));
}

void Init::read_lines(std::vector<std::string>& lines) {
  while (auto line = read_line()) lines.push_back(*std::move(line));
}

}  // namespace snapgdb
